//! Why a jail does not stand.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// A wall that does not stand. Crosses from the process inside to the one outside as JSON, so that it can be reported.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    pub(crate) wall: String,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(wall: &str, reason: impl Display) -> Self {
        Self { wall: wall.to_owned(), reason: reason.to_string() }
    }
}

/// Names the wall and what was being done when it failed.
pub(crate) trait Wall<T> {
    fn wall(self, wall: &str, doing: impl Display) -> Result<T, Refusal>;
}

impl<T, E: Display> Wall<T> for Result<T, E> {
    fn wall(self, wall: &str, doing: impl Display) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::new(wall, format_args!("{doing}: {error}")))
    }
}
