//! `layerpack inspect`.

use std::path::Path;

use pageserver_glue::{Absent, RemoteUrl};
use serde::Serialize;
use storage_api::Key;
use sync_engine::inspect::{Inspected, Problem, Report, Subject, check, draw_bundle, inspect};

use crate::args::Inspect;
use crate::exit::{Exit, Failure};
use crate::output::{Outcome, printable};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct InspectJson {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<Problem>>,
}

pub(crate) async fn run(session: &Session, arguments: &Inspect) -> Result<Outcome, Failure> {
    let subject = find_subject(session, &arguments.subject)?;
    let inspected = inspect(&subject).await?;
    if let Some(path) = &arguments.svg {
        draw(&inspected, path)?;
    }
    let problems = if arguments.check { Some(check(&subject, &inspected).await?) } else { None };
    let json = InspectJson { report: Report::from(&inspected), problems };
    let mut outcome = Outcome::new(&json, &session.cost());
    // Names come from the object: each line is made harmless by itself.
    outcome.text = json.report.to_string().lines().map(|line| printable(line) + "\n").collect();
    for Problem { layer, offset, problem } in json.problems.iter().flatten() {
        let layer = layer.as_ref().map(|layer| format!(" (layer {layer})")).unwrap_or_default();
        let offset = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        outcome.problems.push(format!("{}{offset}{layer}: {problem}", subject.name()));
        outcome.exit = Exit::Damaged;
    }
    if json.problems.as_ref().is_some_and(Vec::is_empty) {
        outcome.text.push_str("\nevery byte is as its checksums say\n");
    }
    Ok(outcome)
}

/// A file, or an object by its URL: the key is what begins with the last `tenants/`.
fn find_subject(session: &Session, text: &str) -> Result<Subject, Failure> {
    if !text.contains("://") {
        return Ok(Subject::File(text.into()));
    }
    let Some((remote, key)) = text.rfind("/tenants/").map(|at| (&text[..at], &text[at + 1..])) else {
        return Err(Failure::Usage(format!(
            "{text:?} is not the URL of an object: the store's URL and a key as in /tenants/T/timelines/L/log/N"
        )));
    };
    let remote: RemoteUrl = remote
        .parse()
        .map_err(|error: pageserver_glue::InvalidRemoteUrl| Failure::Usage(error.to_string()))?;
    let key =
        Key::new(key).map_err(|error| Failure::Usage(format!("{text:?} is no object's URL: {error}")))?;
    Ok(Subject::Object(session.connect(&remote, Absent::Refuse)?, key))
}

fn draw(inspected: &Inspected, path: &Path) -> Result<(), Failure> {
    let Inspected::Bundle(index) = inspected else {
        return Err(Failure::Usage("--svg draws bundles: this is a manifest".into()));
    };
    #[expect(clippy::disallowed_methods, reason = "a picture can be drawn again")]
    std::fs::write(path, draw_bundle(index)).map_err(|source| Failure::File {
        doing: "write the picture",
        path: path.display().to_string(),
        source,
    })
}
