//! The responses of the program, and its requests that are answered in its place.

use super::super::output::Output;
use super::super::refusal::Refusal;
use super::super::replies::{Around, RequestId};
use super::super::response::{Payload, ResponseError};
use super::{Connection, Phase, Receiver};

impl Connection {
    /// Sends an interim response, such as 103; a client of HTTP/1.0 is sent none.
    ///
    /// # Errors
    /// Nothing was sent: the status is none of an interim response, a field is not valid, or the response has begun.
    pub fn interim<'a>(
        &mut self,
        id: RequestId,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.interim(id, status, fields, out)
    }

    /// Sends the head of a response, and its body if that is [whole](Payload::Whole).
    ///
    /// `Content-Length` and `Transfer-Encoding: chunked` among the fields say how the body is sent; without them it
    /// is decided here. `Connection: close` among them ends the connection with the response. `date` and `server` are
    /// added if they are missing and the settings say so.
    ///
    /// # Errors
    /// Nothing was sent, and a response may still be.
    pub fn respond<'a>(
        &mut self,
        id: RequestId,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        payload: Payload<'_>,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        if let Phase::Body(left, Receiver::Request(receiver)) = self.phase
            && receiver == id
            && left > self.settings.max_discarded
        {
            self.replies.close_after(id);
        }
        self.replies.respond(id, status, fields, payload, &self.settings, out)?;
        self.settle(out);
        Ok(())
    }

    /// Sends a part of a body; a response without a body sends none.
    ///
    /// # Errors
    /// Nothing of the part was sent. After [`ResponseError::TooShort`] and [`ResponseError::TooLong`] the response
    /// cannot become a valid one: [`refuse`](Self::refuse) it.
    pub fn body(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        is_last: bool,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.body(id, bytes, is_last, out)?;
        self.settle(out);
        Ok(())
    }

    /// As [`body`](Self::body), but the part itself is sent by the caller, behind `out`: without a copy, or out of a
    /// file. Its request [is the first](Self::is_first). When the part is sent, call
    /// [`body_behind`](Self::body_behind); until then nothing else is sent, whoever answers other requests.
    ///
    /// # Errors
    /// As [`body`](Self::body), and [`ResponseError::Order`] if another request is before it.
    pub fn body_around(
        &mut self,
        id: RequestId,
        length: u64,
        out: &mut Output,
    ) -> Result<Around, ResponseError> {
        self.replies.body_around(id, length, out)
    }

    /// Sends a piece of a part that the caller was to send itself, in place of that.
    ///
    /// # Errors
    /// [`ResponseError::Gone`].
    pub fn body_within(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.body_within(id, bytes, out)
    }

    /// Sends what stands behind a part that the caller has sent, and the end of the response if it was the last one.
    ///
    /// # Errors
    /// As [`body`](Self::body).
    pub fn body_behind(
        &mut self,
        id: RequestId,
        around: Around,
        is_last: bool,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.body_behind(id, around, is_last, out)?;
        self.settle(out);
        Ok(())
    }

    /// Sends trailer fields, and ends the response. They are left out where there is no place for them.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn trailers<'a>(
        &mut self,
        id: RequestId,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.trailers(id, fields, out)?;
        self.settle(out);
        Ok(())
    }

    /// Whether what is sent for this request goes out at once: all before it are answered.
    #[must_use]
    pub fn is_first(&self, id: RequestId) -> bool {
        self.replies.is_first(id)
    }

    /// Whether the head of its response is sent, and the response has a body that is not at its end: one to `HEAD` has
    /// none.
    #[must_use]
    pub fn takes_body(&self, id: RequestId) -> bool {
        self.replies.takes_body(id)
    }

    /// Bytes of its response that wait for those before it.
    #[must_use]
    pub fn held(&self, id: RequestId) -> usize {
        self.replies.held(id)
    }

    /// Whether this request is not answered to the end, and its connection is there.
    #[must_use]
    pub fn is_open(&self, id: RequestId) -> bool {
        self.replies.has(id)
    }

    /// Answers a request in place of the program, which has sent nothing yet. If it has, the response is broken off.
    /// The connection ends with it.
    ///
    /// # Errors
    /// [`ResponseError::Gone`].
    pub fn refuse(
        &mut self,
        id: RequestId,
        refusal: Refusal,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.replies.refuse(id, refusal, &self.settings, out)?;
        self.settle(out);
        Ok(())
    }

    /// Takes notice of responses that have ended: others may have their turn, or the connection its end.
    pub fn settle(&mut self, out: &mut Output) {
        if self.replies.settle(out) {
            return self.stop();
        }
        if let Phase::Body(_, receiver) | Phase::Chunked(_, receiver) = &mut self.phase
            && let Receiver::Request(id) = *receiver
            && !self.replies.has(id)
        {
            *receiver = Receiver::Nobody(self.settings.max_discarded);
        }
        self.close_if_drained();
    }
}
