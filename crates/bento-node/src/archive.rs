//! A bundle as it comes: its memory is taken from what all bundles together may have, before it is filled.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use bento_proto::{Refusal, Size, limits::BUNDLE_BYTES_MAX};

/// The unit in which bundles' memory is shared out, in bytes.
const UNIT: usize = 1024;

/// The memory that all bundles of a node may take together.
#[derive(Debug)]
pub struct Room {
    units: Arc<Semaphore>,
    size: Size,
}

/// A bundle that is coming or has come.
#[derive(Debug)]
pub struct Archive {
    bytes: BytesMut,
    room: Arc<Room>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Of this size.
    pub fn new(size: Size) -> Self {
        let units = (size.as_bytes() / UNIT as u64).min(Semaphore::MAX_PERMITS as u64);
        Self { units: Arc::new(Semaphore::new(units as usize)), size }
    }
}

impl Archive {
    /// With nothing in it yet.
    pub fn new(room: Arc<Room>) -> Self {
        Self { bytes: BytesMut::new(), room, taken: None }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// When it becomes longer than a bundle may be, or all bundles together than they may be.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let length = self.bytes.len() + data.len();
        if length > BUNDLE_BYTES_MAX {
            return Err(Refusal::TooLong { what: "the bundle", limit: BUNDLE_BYTES_MAX as u64 });
        }
        let more = length.div_ceil(UNIT) - self.bytes.len().div_ceil(UNIT);
        // A bundle's length, checked above, fits into 32 bits.
        let more = Arc::clone(&self.room.units).try_acquire_many_owned(more as u32);
        let more = more.map_err(|_| Refusal::Busy { what: "bytes of bundles", limit: self.room.size.as_bytes() })?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// What has come.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes back, and keeps the memory that they took for what was read from them.
    pub fn into_taken(self) -> Option<OwnedSemaphorePermit> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_takes_from_the_room_and_gives_it_back() {
        let room = Arc::new(Room::new(Size::bytes(4 * 1024)));
        let mut first = Archive::new(Arc::clone(&room));
        for _ in 0..3 {
            first.push(&[0; 1000]).unwrap();
        }
        assert_eq!((first.bytes().len(), room.units.available_permits()), (3000, 1));
        let mut second = Archive::new(Arc::clone(&room));
        second.push(&[0; 1024]).unwrap();
        assert!(matches!(second.push(&[0]), Err(Refusal::Busy { limit: 4096, .. })));
        let taken = first.into_taken();
        assert!(second.push(&[0]).is_err());
        drop(taken);
        second.push(&[0]).unwrap();
        assert!(matches!(Archive::new(room).push(&[0; BUNDLE_BYTES_MAX + 1]), Err(Refusal::TooLong { .. })));
    }
}
