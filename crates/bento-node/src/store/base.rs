//! How databases are opened, and what their errors mean.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi};

use super::{Cause, StoreError};

/// Pages of a log after which it is emptied into the database: 1 MiB, for each function that is awake and stores something. On a full disk
/// as much room must be made before things can be deleted again.
const LOG_PAGES: i64 = 256;

/// Pages that may be free in a file: 256 KiB. They are filled again soon, or never.
const FREE_PAGES: i64 = 64;

/// Opens a database that is there, perhaps empty, for this process alone.
pub(super) fn open(path: &Path, durable: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let base = Connection::open_with_flags(path, flags)?;
    // Whoever can write the file shall not make it do things.
    base.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    base.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    base.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    base.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // The lock is kept, so the log needs no shared memory beside it. `auto_vacuum` counts for a new file only.
    base.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON; PRAGMA cache_size = -1024;",
    )?;
    base.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    base.pragma_update(None, "synchronous", if durable { "FULL" } else { "OFF" })?;
    base.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES, |_| Ok(()))?;
    base.pragma_update_and_check(None, "journal_size_limit", LOG_PAGES * 4096, |_| Ok(()))?;
    Ok(base)
}

/// Empties the log into the database, which makes room on a full disk, and forgets what was deleted.
pub(super) fn empty_log(base: &Connection) -> rusqlite::Result<()> {
    base.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
}

/// Gives a part of what is free in the file back to the disk.
pub(super) fn shrink(base: &Connection) -> rusqlite::Result<()> {
    let free: i64 = base.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    if free > FREE_PAGES { base.execute_batch("PRAGMA incremental_vacuum(64)") } else { Ok(()) }
}

/// Are the tables those that we make, and no others?
pub(super) fn has_schema(base: &Connection, schema: &[&str]) -> rusqlite::Result<bool> {
    let mut statement = base.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?;
    let there = statement.query_map([], |row| row.get::<_, Option<String>>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(there.len() == schema.len() && there.iter().zip(schema).all(|(there, ours)| there.as_deref() == Some(*ours)))
}

/// Gives the reason of a failed operation on a database.
pub(super) fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    move |error| match &error {
        Error::SqliteFailure(inner, _) => match inner.code {
            ErrorCode::DiskFull => StoreError::DiskFull,
            // An SQL statement of ours can be wrong only where the tables are.
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation | ErrorCode::Unknown => {
                StoreError::damaged(what)
            }
            _ if matches!(
                inner.extended_code,
                ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_CANTOPEN_SYMLINK
            ) =>
            {
                StoreError::damaged(what)
            }
            _ => StoreError::System(what, Cause::Database(error)),
        },
        Error::InvalidColumnType(..)
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => StoreError::damaged(what),
        _ => StoreError::System(what, Cause::Database(error)),
    }
}
