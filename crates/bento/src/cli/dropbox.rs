//! `bento dropbox`.

mod get;
mod list;
mod put;

use bento::{DropError, DropId, Dropbox, FileKey, Locked, OpenError, Opening, Taker};
use data_encoding::HEXLOWER;

use super::{
    args,
    context::Context,
    failure::{Failure, NODE, REFUSED},
    store::{Drop, Form, Functions, Record},
};

/// Fewest characters that name a drop.
const PREFIX_MIN: usize = 4;

pub(crate) async fn run(context: &Context, args: args::Dropbox) -> Result<(), Failure> {
    match args {
        args::Dropbox::Put(args) => put::run(context, args).await,
        args::Dropbox::Get(args) => get::run(context, args).await,
        args::Dropbox::List(args) => list::list(context, args).await,
        args::Dropbox::Rm(args) => list::remove(context, args).await,
    }
}

impl Record {
    /// Is it one that files can be put into?
    fn is_dropbox(&self) -> bool {
        ["begin", "put", "finish", "get", "list", "delete", "link"].iter().all(|wanted| self.methods.iter().any(|method| method == wanted))
    }

    /// The way to use it.
    async fn dropbox(&self, context: &Context) -> Result<Dropbox, Failure> {
        let node = self.node()?;
        Ok(Dropbox { client: context.client(&node).await?, node, token: self.tokens()?.invocation, taker: Taker::Dropbox })
    }
}

impl Drop {
    fn id(&self) -> Result<DropId, Failure> {
        Ok(self.id.parse::<DropId>()?)
    }

    /// The key that it is encrypted with, if it is with one of ours.
    fn key(&self) -> Result<Option<FileKey>, Failure> {
        let Form::Sealed { key, prefix } = &self.form else { return Ok(None) };
        let wrong = || Failure::input("functions.json has a wrong key of a drop").with_hint("send the file again");
        let bytes = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong());
        let (key, prefix) = (bytes(key)?.try_into().map_err(|_| wrong())?, bytes(prefix)?.try_into().map_err(|_| wrong())?);
        Ok(Some(FileKey::from_parts(key, prefix)))
    }

    /// What those need to open it who fetch it.
    fn opening(&self) -> Result<Opening, Failure> {
        let locked = match (&self.form, self.key()?) {
            (_, Some(key)) => Locked::Key((*key.key()).into()),
            (Form::Age { .. }, _) => Locked::Age,
            _ => Locked::No,
        };
        Ok(Opening { locked, padded: self.pad.is_some(), name: Some(self.name.clone()) })
    }
}

/// An installed Dropbox by its name.
fn find<'a>(functions: &'a Functions, name: &str) -> Result<&'a Record, Failure> {
    match functions.get(name) {
        Some(record) if record.is_dropbox() => Ok(record),
        Some(_) => Err(Failure::input(format!("`{name}` is no Dropbox")).with_hint("`bento dropbox list` lists those that are")),
        None => Err(Failure::input(format!("no function is installed under the name `{}`", bento::line(name)))
            .with_hint("`bento status` lists those that are")),
    }
}

/// The one drop of a list that is named by its id or how that begins.
fn named<'a>(drops: impl Iterator<Item = (&'a String, &'a Drop)>, text: &str) -> Result<Option<(&'a String, &'a Drop)>, Failure> {
    if text.len() < PREFIX_MIN {
        return Err(Failure::input(format!("a drop is named by at least {PREFIX_MIN} characters of its id"))
            .with_hint("`bento dropbox list` shows the ids"));
    }
    let mut found = drops.filter(|(_, drop)| drop.id.starts_with(text));
    let first = found.next();
    if found.next().is_some() {
        return Err(Failure::input(format!("several drops begin with `{}`", bento::line(text))).with_hint("give more of the id"));
    }
    Ok(first)
}

pub(crate) fn failure(error: DropError, name: &str) -> Failure {
    let (hint, text) = (error.hint(), error.to_string());
    let status = match error {
        DropError::Client(error) => return Failure::about(error, name, None),
        DropError::File(cause) => return Failure::input(format!("{text}: {cause}")).with_hint(hint),
        DropError::Refused(_) => REFUSED,
        DropError::Open(OpenError::Key | OpenError::Age(_)) => super::failure::BAD_INPUT,
        _ => NODE,
    };
    Failure::new(status, text).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn drop(id: &str) -> Drop {
        let form = Form::Sealed { key: "07".repeat(32), prefix: "01".repeat(7) };
        let (name, file) = ("a".to_owned(), PathBuf::from("/a"));
        Drop { id: id.into(), name, file, size: 1, sha256: String::new(), pad: None, form, gets: None, link: None }
    }

    #[test]
    fn a_drop_is_named_by_enough_of_its_id_and_not_by_what_two_have() {
        let (one, two, at) = (drop("abcd11"), drop("abcd22"), "dropbox".to_owned());
        let find = |text| named([(&at, &one), (&at, &two)].into_iter(), text);
        assert_eq!(find("abcd2").unwrap().unwrap().1.id, "abcd22");
        assert!(find("ffff").unwrap().is_none());
        assert!(find("abcd").unwrap_err().text.contains("several") && find("abc").is_err());
    }

    #[test]
    fn a_kept_drop_reads_back_with_its_key_and_a_damaged_key_is_told() {
        let kept = drop("abcd");
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Drop>(&text).unwrap(), kept);
        assert_eq!(kept.key().unwrap().unwrap(), FileKey::from_parts([7; 32], [1; 7]));
        let damaged = Drop { form: Form::Sealed { key: "07".into(), prefix: String::new() }, ..kept.clone() };
        assert_eq!(damaged.key().unwrap_err().status, 2);
        for form in [Form::Plain, Form::Age { to: vec!["age1x".into()] }] {
            let other = Drop { form, ..kept.clone() };
            assert_eq!(serde_json::from_str::<Drop>(&serde_json::to_string(&other).unwrap()).unwrap(), other);
            assert!(other.key().unwrap().is_none());
        }
    }
}
