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

    fn take(&self, units: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        // No bundle is longer than 32 bits can say.
        let taken = Arc::clone(&self.units).try_acquire_many_owned(units as u32);
        taken.map_err(|_| Refusal::Busy { what: "bytes of bundles", limit: self.size.as_bytes() })
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
        let more = self.room.take(more)?;
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

    /// Gives the bytes back, and takes the memory of what was read from them out of another room: what comes from strangers and may never be
    /// whole must not fill that of functions that are here.
    ///
    /// # Errors
    /// When that is full.
    pub fn kept_in(self, room: &Room) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = self.bytes.len().div_ceil(UNIT);
        room.take(units)
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
        let kept = Room::new(Size::bytes(3 * 1024));
        let taken = first.kept_in(&kept).unwrap();
        assert_eq!((room.units.available_permits(), kept.units.available_permits()), (3, 0));
        second.push(&[0]).unwrap();
        assert!(matches!(second.kept_in(&kept), Err(Refusal::Busy { limit: 3072, .. })));
        drop(taken);
        assert_eq!(kept.units.available_permits(), 3);
        assert!(matches!(Archive::new(room).push(&[0; BUNDLE_BYTES_MAX + 1]), Err(Refusal::TooLong { .. })));
    }
}
