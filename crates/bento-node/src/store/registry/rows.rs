//! The row of a function: what of it is plain, what proves that, and what is sealed in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bento_proto::SealKey;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{
        Id, StoreError, base,
        seal::{self, Keys},
    },
    Away, BASE, Record, Used,
};

/// What the key is derived for that a data key is wrapped under.
pub(super) const WRAP: &str = "bento store wrap 1";

/// Places on other nodes are written in so many at a time, so that their number is seen no more exactly than this.
const AWAY_STEP: usize = 16;

/// Bytes of one of them: which, and until when. One that was over in 1970 fills up.
const AWAY_BYTES: usize = 32 + 8;

/// What is sealed of a function's use: the above, and how far its store had come, where 0 means that it has none.
pub(super) struct Kept {
    pub(super) used: Used,
    pub(super) floor: u64,
}

pub(super) const COLUMNS: &str = "id, invocation, shutdown, ends, lifetime, storage, head, awake, wrapped, own, used, proof";

/// What a row has sealed.
pub(super) struct Sealed {
    pub(super) wrapped: Vec<u8>,
    pub(super) own: Vec<u8>,
    pub(super) used: Vec<u8>,
}

impl Sealed {
    pub(super) fn keys(&self, record: &Record, key: &SealKey) -> Result<Keys, StoreError> {
        let damaged = || StoreError::damaged("the key of a function");
        let data = seal::unwrap(&key.derive(WRAP), "data key", &[&granted(record)], &self.wrapped).ok_or_else(damaged)?;
        Ok(Keys::new(data.as_slice().try_into().map_err(|_| damaged())?, record.id))
    }
}

impl Kept {
    pub(super) fn seal(&self, keys: &Keys) -> Result<Vec<u8>, StoreError> {
        let mut text = [self.used.cpu_ms, self.used.traffic, self.floor].map(u64::to_le_bytes).concat();
        for away in &self.used.away {
            text.extend_from_slice(&away.place);
            text.extend_from_slice(&milliseconds(away.until).to_le_bytes());
        }
        let places = self.used.away.len().max(1).next_multiple_of(AWAY_STEP);
        text.resize(text.len() + (places - self.used.away.len()) * AWAY_BYTES, 0);
        keys.seal("used", &[], &text)
    }

    pub(super) fn open(keys: &Keys, sealed: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged("the account of a function");
        let text = keys.open("used", &[], sealed).ok_or_else(damaged)?;
        let (numbers, places) = text.split_first_chunk::<24>().ok_or_else(damaged)?;
        let (numbers, _) = numbers.as_chunks::<8>();
        let &[cpu_ms, traffic, floor] = numbers else { return Err(damaged()) };
        let (places, []) = places.as_chunks::<AWAY_BYTES>() else { return Err(damaged()) };
        let away = places.iter().filter_map(|place| {
            let (place, until) = place.split_first_chunk::<32>()?;
            let until = u64::from_le_bytes(until.try_into().ok()?);
            (until > 0).then(|| Away { place: *place, until: from_milliseconds(until) })
        });
        let number = u64::from_le_bytes;
        Ok(Self { used: Used { cpu_ms: number(cpu_ms), traffic: number(traffic), away: away.collect() }, floor: number(floor) })
    }
}

/// What a data key is bound to: whoever can write the disk shall not hand one client's function to another, or grant it more.
pub(super) fn granted(record: &Record) -> Vec<u8> {
    let mut place = record.id.0.to_vec();
    place.extend_from_slice(record.invocation.to_string().as_bytes());
    place.extend_from_slice(record.shutdown.to_string().as_bytes());
    place.extend_from_slice(&whole(record.lifetime).to_le_bytes());
    place.extend_from_slice(&record.storage.to_le_bytes());
    place.extend_from_slice(&record.head_bytes.to_le_bytes());
    place.push(record.keep_awake.into());
    place
}

pub(super) fn proof(keys: &Keys, record: &Record, wrapped: &[u8], own: &[u8]) -> [u8; 32] {
    keys.leaf(0, &[&granted(record), &milliseconds(record.ends).to_le_bytes(), wrapped, own])
}

pub(super) fn insert(base: &Connection, keys: &Keys, record: &Record, wrapped: &[u8], own: &[u8], used: &[u8]) -> Result<(), StoreError> {
    base.prepare_cached(&format!("INSERT INTO functions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"))
        .and_then(|mut statement| {
            statement.execute(params![
                record.id.0,
                record.invocation.to_string(),
                record.shutdown.to_string(),
                milliseconds(record.ends) as i64,
                whole(record.lifetime) as i64,
                record.storage as i64,
                record.head_bytes as i64,
                record.keep_awake,
                wrapped,
                own,
                used,
                proof(keys, record, wrapped, own),
            ])
        })
        .map_err(base::failed(BASE))?;
    Ok(())
}

pub(super) fn delete(base: &Connection, id: Id) -> Result<bool, StoreError> {
    base.execute("DELETE FROM functions WHERE id = ?", [id.0]).map(|rows| rows > 0).map_err(base::failed(BASE))
}

pub(super) fn row(base: &Connection, keys: &Keys, id: Id) -> Result<(Record, Sealed), StoreError> {
    base.prepare_cached(&format!("SELECT {COLUMNS} FROM functions WHERE id = ?"))
        .and_then(|mut statement| statement.query_row([id.0], |row| Ok(read(row, keys))).optional())
        .map_err(base::failed(BASE))?
        .ok_or(StoreError::Missing)?
}

pub(super) fn read(row: &Row<'_>, keys: &Keys) -> Result<(Record, Sealed), StoreError> {
    let damaged = || StoreError::damaged("what the node knows of a function");
    let fields = || -> rusqlite::Result<_> {
        let sealed = Sealed { wrapped: row.get(8)?, own: row.get(9)?, used: row.get(10)? };
        let numbers: [i64; 4] = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
        Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, numbers, row.get(7)?, sealed, row.get::<_, [u8; 32]>(11)?))
    };
    let (id, invocation, shutdown, [ends, lifetime, storage, head], keep_awake, sealed, found) = fields().map_err(|_| damaged())?;
    let record = Record {
        id: Id(id),
        invocation: invocation.parse().map_err(|_| damaged())?,
        shutdown: shutdown.parse().map_err(|_| damaged())?,
        ends: from_milliseconds(ends as u64),
        lifetime: Duration::from_millis(lifetime as u64),
        storage: storage as u64,
        head_bytes: head as u64,
        keep_awake,
    };
    if proof(keys, &record, &sealed.wrapped, &sealed.own) != found {
        return Err(damaged());
    }
    Ok((record, sealed))
}

pub(in super::super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(i64::MAX as u64)).min(MILLISECONDS_MAX)
}

pub(super) fn whole(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(MILLISECONDS_MAX).min(MILLISECONDS_MAX)
}

/// Some ten thousand years: a time that every machine can hold.
const MILLISECONDS_MAX: u64 = 300_000_000_000_000;

pub(super) fn from_milliseconds(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.min(MILLISECONDS_MAX))
}
