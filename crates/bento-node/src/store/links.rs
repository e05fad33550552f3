//! Links: each has a function's key, wrapped under the link's own secret, so that whoever has it opens the function, and nobody else.

use std::time::SystemTime;

use bento_proto::SealKey;
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::{
    Id, StoreError, base,
    registry::{BASE, Registry, lock, milliseconds},
    seal,
};

pub(super) const TABLE: &str = "CREATE TABLE links (digest BLOB PRIMARY KEY, function BLOB NOT NULL, ends INTEGER NOT NULL, wrapped BLOB NOT NULL) STRICT, WITHOUT ROWID";

const PLACE: &str = "link";

/// A link that comes.
pub struct NewLink<'a> {
    /// By which it is found.
    pub digest: [u8; 32],
    /// What the key is wrapped under; random, and known to who has the link alone.
    pub secret: [u8; 32],
    /// Whose it is.
    pub function: Id,
    /// The function's key.
    pub key: &'a SealKey,
    /// When it ends.
    pub ends: SystemTime,
}

impl Registry {
    /// Adds a link. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it could not be.
    pub fn link(&self, new: NewLink<'_>) -> Result<(), StoreError> {
        let secret = Zeroizing::new(new.secret);
        let wrapped = seal::wrap(&secret, PLACE, &[&new.digest, &new.function.0], new.key.reveal().as_bytes())?;
        self.change(|base| {
            let failed = base::failed(BASE);
            // What is over is of no use to anybody; removed here, since somebody writes anyway.
            if self.is_sure() {
                base.execute("DELETE FROM links WHERE ends <= ?", [milliseconds(SystemTime::now()) as i64]).map_err(&failed)?;
            }
            base.execute(
                "INSERT INTO links (digest, function, ends, wrapped) VALUES (?, ?, ?, ?)",
                params![new.digest, new.function.0, milliseconds(new.ends) as i64, wrapped],
            )
            .map_err(&failed)?;
            Ok(())
        })
    }

    /// Whose link this is, and that function's key.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read.
    pub fn linked(&self, digest: [u8; 32], secret: [u8; 32]) -> Result<Option<(Id, SealKey)>, StoreError> {
        let secret = Zeroizing::new(secret);
        let found = lock(&self.0.base)
            .connection
            .prepare_cached("SELECT function, wrapped FROM links WHERE digest = ? AND ends > ?")
            .and_then(|mut statement| {
                let now = milliseconds(SystemTime::now()) as i64;
                statement.query_row(params![digest, now], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Vec<u8>>(1)?))).optional()
            })
            .map_err(base::failed(BASE))?;
        let Some((function, wrapped)) = found else { return Ok(None) };
        let damaged = || StoreError::damaged("a link");
        let text = seal::unwrap(&secret, PLACE, &[&digest, &function], &wrapped).map(Zeroizing::new).ok_or_else(damaged)?;
        let key = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        Ok(Some((Id(function), key)))
    }

    /// Removes a link of a function.
    ///
    /// # Errors
    /// When it could not be.
    pub fn unlink(&self, function: Id, digest: [u8; 32]) -> Result<(), StoreError> {
        self.change(|base| {
            let deleted = base.execute("DELETE FROM links WHERE digest = ? AND function = ?", params![digest, function.0]);
            deleted.map(|_| ()).map_err(base::failed(BASE))
        })?;
        self.forget_log()
    }
}

/// Removes all links of a function that goes.
pub(super) fn forget(base: &Connection, function: Id) -> Result<(), StoreError> {
    base.execute("DELETE FROM links WHERE function = ?", [function.0]).map(|_| ()).map_err(base::failed(BASE))
}
