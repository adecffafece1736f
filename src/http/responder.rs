//! What is answered on a connection that no loop has: whether the server takes requests.

use std::sync::Arc;

use super::arrived::Arrived;
use super::connection::{Activity, Connection};
use super::head::BodyLength;
use super::output::Output;
use super::settings::Settings;
use crate::sys::clock;
use crate::transport::Responder;

/// Answers for [`Settings::readiness`], while every loop is stuck, on connections that were just accepted.
#[derive(Debug)]
pub struct ReadinessResponder(Arc<Settings>);

impl ReadinessResponder {
    /// For a server with these settings, without TLS.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self(settings)
    }
}

impl Responder for ReadinessResponder {
    fn response(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let readiness = self.0.readiness.as_ref()?;
        let mut connection = Connection::new(Arc::clone(&self.0));
        let (mut arrived, mut output) = (Arrived::default(), Output::default());
        output.set_time(clock::unix_seconds());
        connection.receive(bytes, &mut output, &mut |event| arrived.take(event));
        let [(_, head)] = arrived.heads.make_contiguous() else { return None };
        let is_asked = head.path() == &*readiness.path && head.body() == BodyLength::None;
        if !is_asked || connection.pending() > 0 || !output.bytes().is_empty() {
            return None;
        }
        connection.drain();
        arrived.answer(readiness, &mut connection, &mut output);
        let is_all = connection.activity() == Activity::Closing && arrived.heads.is_empty();
        is_all.then(|| output.bytes().to_vec())
    }
}
