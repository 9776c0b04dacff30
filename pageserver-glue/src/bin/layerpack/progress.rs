//! How far long work has come: a bar on a terminal, a line now and then elsewhere.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sync_engine::Progress;
use tokio::task::JoinHandle;

use crate::output::{Chatter, Style, human_bytes};

const BAR_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    shown: Option<JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Meter {
    pub(crate) fn start(style: Style, doing: String, progress: Arc<Progress>) -> Self {
        match style.chatter {
            Chatter::None => Self { shown: None, bar: None },
            Chatter::Lines => {
                let shown = tokio::spawn(async move {
                    // Work that is done by then needs no line.
                    let mut ticks = tokio::time::interval(LINE_EVERY);
                    ticks.tick().await;
                    loop {
                        ticks.tick().await;
                        let (total, done) = progress.bytes();
                        let (total, done) = (human_bytes(total), human_bytes(done));
                        // Where nobody listens any more the work goes on all the same.
                        let _ = writeln!(std::io::stderr(), "{doing}: {done} of {total}");
                    }
                });
                Self { shown: Some(shown), bar: None }
            }
            Chatter::Bar => {
                let bar = ProgressBar::new(0).with_message(doing);
                let template = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta}";
                bar.set_style(
                    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                let shown = tokio::spawn({
                    let bar = bar.clone();
                    async move {
                        let mut ticks = tokio::time::interval(BAR_EVERY);
                        loop {
                            ticks.tick().await;
                            let (total, done) = progress.bytes();
                            bar.set_length(total);
                            bar.set_position(done);
                        }
                    }
                });
                Self { shown: Some(shown), bar: Some(bar) }
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(shown) = self.shown.take() {
            shown.abort();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
