//! The client: describes nodes, installs and invokes functions on them, and reads what they send back.
//!
//! It trusts no node: every wait has a bound, every answer a greatest size, and nothing partial is passed off as whole. Texts of a node
//! are stripped of control characters when they arrive. Nothing here writes a log, a file or a terminal; that is the program's.
#![forbid(unsafe_code)]

mod activity;
mod address;
mod body;
mod browse;
mod call;
mod client;
mod conclave;
mod cover;
mod detached;
mod dropbox;
mod errand;
mod error;
mod files;
mod json;
mod output;
mod shard;
mod standard;
mod text;
mod tokens;

pub use address::{AddressError, NodeAddress};
pub use body::Input;
pub use browse::{Browse, Kind, Missing, Page, Sizes, SizesError};
pub use call::Call;
pub use client::{Bounds, Client, Stage};
pub use conclave::{Attested, Demand};
#[cfg(feature = "conclave")]
pub use conclave::{DemandError, Pinned};
pub use cover::{Asker, CoverError, CoverPlan, CoverTraffic, Flow, FlowProgress, Pace, PlanError, Reply, Sent, Shape};
pub use detached::{Fetched, OutputId};
pub use dropbox::{
    AgeIdentity, AgeRecipient, Announcement, Download, DropError, DropId, DropLink, DropRefusal, Dropbox, FileKey, LinkError, Locked,
    OpenError, Opener, Opening, Origin, Parcel, Piece, Source, Spooled, Taker, Told, Upload, Uploaded, age_seal, age_size_max, spool,
};
pub use errand::{Collected, Errand, ErrandError, Place};
pub use error::ClientError;
pub use files::{FilesError, read_bundle};
pub use output::{Output, Part};
pub use shard::{
    Candidate, Candidates, Checked, CheckedShard, Drip, Intake, Load, Lost, LostShard, Mode, Next, Portion, Progress, Rebuild, Recipe,
    RecipeError, SealedFile, Shard, Shards, Shelf, Split, visit_bundle,
};
pub use standard::{Balancing, Room, Standard, balancing, connecting_to, with_room};
pub use text::{line, paragraph};
pub use tokens::Tokens;
