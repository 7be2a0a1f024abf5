//! What of an input is stored already when a publisher begins.

use crate::client::blocking::{Client, Error};
use crate::client::{StartFrom, StreamDescription};
use crate::command::CommandError;
use crate::ids::ProducerName;
use crate::port::AnyPort;

/// What of an input is stored already.
pub(super) struct Before {
    /// Its first messages.
    pub(super) messages: u64,
    /// The last of these, where it is kept.
    pub(super) last: Option<Vec<u8>>,
    /// The producer, where it has a name.
    pub(super) of: Option<ProducerName>,
}

impl Before {
    /// What a producer has published, and its last message.
    pub(super) fn of(
        client: &mut Client<AnyPort>,
        stream: &StreamDescription,
        name: ProducerName,
    ) -> Result<Self, CommandError> {
        let messages = client.polled().next_seq() - 1;
        let mut before = Self { messages, last: None, of: Some(name) };
        let Some((id, sequence)) = client.polled().last_published().filter(|_| messages > 0) else {
            return Ok(before);
        };
        if id != stream.id {
            return Err(CommandError::Failed(format!(
                "producer {} publishes to another stream, of number {id}; a producer's messages are counted \
                 together: take another name for {}",
                name.as_str(),
                stream.name
            )));
        }
        match client.subscribe(id, StartFrom::Sequence(sequence)) {
            Ok(_) => {
                before.last = Some(client.next_message()?.payload);
                client.polled().unsubscribe(id);
            }
            // What is trimmed tells nothing.
            Err(Error::Trimmed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(before)
    }

    /// Why the input is not the one that was published before, where its last message of those says so.
    pub(super) fn differs(&self, number: u64, message: &[u8]) -> Option<String> {
        let last = self.last.as_ref().filter(|_| number == self.messages)?;
        (last != message).then(|| {
            format!(
                "its message {number} is not the last one that producer {} has published: is it another input?",
                self.of.map_or_else(String::new, |name| name.as_str().to_owned())
            )
        })
    }
}
