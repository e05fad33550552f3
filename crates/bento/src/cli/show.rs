//! What is seen on stderr while something goes on: a bar on a terminal, plain lines when asked for, nothing in a pipe.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

const RECEIVED: &str = "{spinner} received {bytes} of {total_bytes} {bar:24} {bytes_per_sec}";
const MOVED: &str = "{spinner} {prefix} {bytes} of {total_bytes} {bar:24} {bytes_per_sec}, {eta} left";

/// Shows progress.
#[derive(Debug)]
pub(crate) struct Show {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Silent,
    Lines,
    Bar(ProgressBar),
}

impl Show {
    pub(crate) fn new(lines: bool) -> Self {
        let mode = if lines {
            Mode::Lines
        } else if io::stderr().is_terminal() {
            Mode::Bar(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")))
        } else {
            Mode::Silent
        };
        Self { mode }
    }

    /// Is there somebody to see how far something is?
    pub(crate) fn is_watched(&self) -> bool {
        matches!(self.mode, Mode::Bar(_))
    }

    /// What goes on now. The next thing takes its place.
    pub(crate) fn now(&self, text: &str) {
        match &self.mode {
            Mode::Silent => {}
            Mode::Lines => line(text),
            Mode::Bar(bar) => {
                bar.enable_steady_tick(Duration::from_millis(100));
                if !bar.prefix().is_empty() {
                    bar.set_prefix("");
                    bar.set_style(style("{spinner} {msg}"));
                }
                bar.set_message(text.to_owned());
            }
        }
    }

    /// What was reached. It stays to be seen.
    pub(crate) fn step(&self, text: &str) {
        match &self.mode {
            Mode::Silent => {}
            Mode::Lines => line(text),
            Mode::Bar(bar) => bar.println(text),
        }
    }

    /// What the person has to know, also where progress is not shown.
    pub(crate) fn say(&self, text: &str) {
        match &self.mode {
            Mode::Silent | Mode::Lines => line(text),
            Mode::Bar(bar) => bar.println(text),
        }
    }

    /// How far something long is, done at a steady rate.
    pub(crate) fn moved(&self, what: &'static str, bytes: u64, total: u64) {
        let Mode::Bar(bar) = &self.mode else { return };
        if bar.length() != Some(total) || bar.prefix() != what {
            bar.set_style(style(MOVED));
            bar.set_prefix(what);
            bar.set_length(total);
            // What was there before is no part of the rate.
            bar.set_position(bytes);
            bar.reset_elapsed();
            bar.reset_eta();
        }
        bar.set_position(bytes);
    }

    /// How much has come, and of how much if that is known.
    pub(crate) fn received(&self, bytes: u64, total: Option<u64>) {
        let Mode::Bar(bar) = &self.mode else { return };
        match total {
            Some(total) if bar.length() != Some(total) => {
                bar.set_style(style(RECEIVED));
                bar.set_length(total);
                bar.reset_elapsed();
            }
            None if bar.position() == 0 => bar.set_style(style("{spinner} received {bytes}, {bytes_per_sec}")),
            _ => {}
        }
        bar.set_position(bytes);
    }

    /// Nothing more goes on: the bar leaves the terminal.
    pub(crate) fn clear(&self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    // When stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in ["{spinner} {msg}", RECEIVED, MOVED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
