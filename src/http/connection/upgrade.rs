//! A request for a WebSocket that is accepted: the connection is one from then on.

use super::super::head::RequestHead;
use super::super::output::Output;
use super::super::replies::RequestId;
use super::super::response::ResponseError;
use super::super::websocket::{self, WebSocket};
use super::{Connection, Phase};

impl Connection {
    /// Accepts a request for a WebSocket, `head` of the request `id`. The answer is appended to `out`; the
    /// connection is of no more use. What has come behind the request is [pending](WebSocket::pending) in the
    /// WebSocket: call [`WebSocket::receive`] at once, with nothing if nothing was read.
    ///
    /// A request for a WebSocket may also be answered as any other. The connection ends with that response.
    ///
    /// # Errors
    /// Nothing was sent: a field is not valid, or one of the handshake's own; the subprotocol was not offered; the
    /// request is not this one, or is answered.
    pub fn accept<'a>(
        &mut self,
        id: RequestId,
        head: &RequestHead,
        subprotocol: Option<&[u8]>,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Output,
    ) -> Result<WebSocket, ResponseError> {
        if !matches!(self.phase, Phase::Upgrade) || !self.replies.is_first(id) {
            return Err(ResponseError::Gone);
        }
        if !self.replies.is_unanswered(id) {
            return Err(ResponseError::Order);
        }
        let before = out.bytes.len();
        let deflate = match websocket::write_accept(head, subprotocol, fields, &self.settings, out)
        {
            Ok(deflate) => deflate,
            Err(error) => {
                out.bytes.truncate(before);
                return Err(error);
            }
        };
        let pending = self.pending[self.used..].to_vec();
        let socket = WebSocket::new(self.settings.max_message, deflate, pending);
        self.stop();
        Ok(socket)
    }
}
