//! Frames of a flow, as `flow.py` has them: full of messages as far as there are any, else of nothing.
//!
//! ```text
//! frame    messages, then zero bytes up to its size
//! message  kind (1 byte), number (4), length (2), and so many bytes; big endian; none crosses the end of a frame
//! kind     0 nothing more in this frame, 1 data, 2 end, 3 give up
//! ```

use bytes::Bytes;

/// Bytes of a message's head.
pub(super) const HEAD_BYTES: usize = 7;

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Data,
    End,
    GiveUp,
}

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) number: u32,
    pub(super) data: Bytes,
}

/// The messages of a frame; none for what is no frame.
pub(super) fn read(frame: &Bytes) -> Option<Vec<Message>> {
    let (mut messages, mut at) = (Vec::new(), 0);
    while let Some(head) = frame.get(at..at + HEAD_BYTES) {
        let kind = match head[0] {
            0 => break,
            1 => Kind::Data,
            2 => Kind::End,
            3 => Kind::GiveUp,
            _ => return None,
        };
        let number = u32::from_be_bytes(head[1..5].try_into().ok()?);
        let end = at + HEAD_BYTES + usize::from(u16::from_be_bytes(head[5..7].try_into().ok()?));
        if end > frame.len() {
            return None;
        }
        messages.push(Message { kind, number, data: frame.slice(at + HEAD_BYTES..end) });
        at = end;
    }
    Some(messages)
}

/// Adds a message to a frame of which so much is left, cut to what finds room; how many bytes of the data did. None if not even its head does.
pub(super) fn write(frame: &mut Vec<u8>, size: usize, kind: Kind, number: u32, data: &[u8]) -> Option<usize> {
    let room = size.checked_sub(frame.len() + HEAD_BYTES)?.min(usize::from(u16::MAX)).min(data.len());
    frame.push(match kind {
        Kind::Data => 1,
        Kind::End => 2,
        Kind::GiveUp => 3,
    });
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend_from_slice(&u16::try_from(room).unwrap_or_default().to_be_bytes());
    frame.extend_from_slice(&data[..room]);
    Some(room)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u32>(), data in prop::collection::vec(any::<u8>(), 0..900), size in 64_usize..600) {
            let (mut left, mut got) = (&data[..], Vec::new());
            loop {
                let mut frame = Vec::new();
                let written = write(&mut frame, size, Kind::Data, number, left).unwrap();
                left = &left[written..];
                prop_assert!(frame.len() <= size);
                frame.resize(size, 0);
                for message in read(&frame.into()).unwrap() {
                    prop_assert_eq!((message.kind, message.number), (Kind::Data, number));
                    got.extend_from_slice(&message.data);
                }
                if left.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, data);
        }

        #[test]
        fn no_bytes_are_read_beyond_their_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let length = bytes.len();
            if let Some(messages) = read(&bytes.into()) {
                prop_assert!(messages.iter().map(|message| message.data.len() + HEAD_BYTES).sum::<usize>() <= length);
            }
        }
    }

    #[test]
    fn a_full_frame_takes_no_more() {
        let mut frame = vec![0; 58];
        assert_eq!(write(&mut frame, 64, Kind::End, 1, b""), None);
        frame.pop();
        assert_eq!(write(&mut frame, 64, Kind::End, 1, b""), Some(0));
        assert_eq!(read(&Bytes::from_static(&[9; 64])), None);
    }
}
