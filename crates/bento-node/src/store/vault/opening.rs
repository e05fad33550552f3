//! Opening a store: nothing is handed out before all records were compared with the sealed root.

use std::{collections::HashMap, path::PathBuf};

use data_encoding::HEXLOWER;
use rusqlite::Connection;

use super::{
    super::{
        StoreError, base,
        files::{Dir, Mark, failed, must_be_there},
        object::{Root, SCHEMA},
        seal::SEALED_CHUNK,
    },
    BASE, Base, Inner, State, records,
};

const MARK: &str = "store.mark";
const OBJECTS: &str = "objects";

impl Inner {
    pub(super) fn open_base(&self, state: &mut State, make: bool) -> Result<(), StoreError> {
        let floor = if self.durable { self.registry.floor(self.id, &self.keys)? } else { 0 };
        let seen = state.root.as_ref().map_or(0, |root| root.counter);
        if !make && !self.durable && state.root.is_none() {
            return Ok(());
        }
        let (dir, path) = self.registry.directory(self.id).map_err(must_be_there("a function's directory"))?;
        if !dir.has(BASE).map_err(failed("looking for a store"))? {
            if floor > 0 || seen > 0 {
                return Err(StoreError::damaged(BASE));
            }
            if !make {
                return Ok(());
            }
        }
        let (base, root) = self.read_base(&dir, path.join(BASE), floor == 0 && seen == 0)?;
        match &state.root {
            Some(known) if *known != root && state.perhaps.as_ref() != Some(&root) => return Err(StoreError::damaged(BASE)),
            None if root.counter < floor => return Err(StoreError::damaged(BASE)),
            _ => {}
        }
        let files = self.verify(&base.connection, &root)?;
        if state.writing.is_empty() {
            self.clear(&base.objects, &files)?;
        }
        if floor == 0 && self.durable {
            self.registry.set_floor(self.id, &self.keys, root.counter)?;
        }
        state.root = Some(root);
        state.perhaps = None;
        state.base = Some(base);
        Ok(())
    }

    /// Opens the files of a store, and makes what is missing where it may be `new`.
    fn read_base(&self, dir: &Dir, path: PathBuf, new: bool) -> Result<(Base, Root), StoreError> {
        let broken = base::failed(BASE);
        let making = failed("making a store");
        let objects = if new { dir.make(OBJECTS) } else { dir.dir(OBJECTS) }.map_err(must_be_there("objects/"))?;
        if new && !dir.has(BASE).map_err(&making)? {
            dir.create(BASE).map_err(&making)?;
            if self.durable {
                dir.sync().map_err(&making)?;
            }
        }
        dir.file(BASE).map_err(must_be_there(BASE))?;
        let mut connection = base::open(&path, self.durable).map_err(&broken)?;
        if new && base::has_schema(&connection, &[]).map_err(&broken)? {
            let transaction = connection.transaction().map_err(&broken)?;
            for table in SCHEMA {
                transaction.execute(table, []).map_err(&broken)?;
            }
            let first = Root::empty(1);
            transaction.execute("INSERT INTO root VALUES (0, ?)", [first.seal(&self.keys)?]).map_err(&broken)?;
            transaction.commit().map_err(&broken)?;
        }
        if !base::has_schema(&connection, SCHEMA).map_err(&broken)? {
            return Err(StoreError::damaged(BASE));
        }
        let sealed: Vec<u8> = connection.query_row("SELECT sealed FROM root", [], |row| row.get(0)).map_err(&broken)?;
        let root = Root::open(&self.keys, &sealed)?;
        let mark = match Mark::read(dir, MARK, &self.keys)? {
            Some((mark, seen)) if seen <= root.counter => mark,
            None if new => Mark::make(dir, MARK, &self.keys, root.counter)?,
            _ => return Err(StoreError::damaged(BASE)),
        };
        Ok((Base { connection, objects, mark }, root))
    }

    /// Compares all records with the root. The answer says which files there must be, and how many chunks are in each.
    fn verify(&self, base: &Connection, root: &Root) -> Result<HashMap<String, u64>, StoreError> {
        let broken = base::failed(BASE);
        let mut sum = Root::empty(root.counter);
        let mut files = HashMap::new();
        records::each(base, &self.keys, |key, sealed, meta| {
            sum.add(&self.keys, key, sealed, &meta);
            if meta.chunks > 0 {
                files.insert(HEXLOWER.encode(&meta.object), meta.chunks);
            }
        })?;
        let mut statement = base.prepare_cached("SELECT object, block, tags FROM chunks").map_err(&broken)?;
        let mut rows = statement.query([]).map_err(&broken)?;
        while let Some(row) = rows.next().map_err(&broken)? {
            let (object, block, tags): (Vec<u8>, i64, Vec<u8>) =
                row.try_into().map_err(|_: rusqlite::Error| StoreError::damaged("the records of chunks"))?;
            sum.add_tags(&self.keys, &object, block as u64, &tags);
        }
        if sum == *root { Ok(files) } else { Err(StoreError::damaged("the set of all records")) }
    }

    /// Removes what was written and never committed.
    fn clear(&self, objects: &Dir, files: &HashMap<String, u64>) -> Result<(), StoreError> {
        let clearing = failed("clearing a store");
        for name in objects.names().map_err(&clearing)? {
            let Some(chunks) = files.get(&name) else {
                objects.remove_all(&name).map_err(&clearing)?;
                continue;
            };
            let Ok(file) = objects.file(&name) else { continue };
            let length = chunks * SEALED_CHUNK as u64;
            if file.metadata().map_err(&clearing)?.len() > length {
                file.set_len(length).map_err(&clearing)?;
            }
        }
        Ok(())
    }
}
