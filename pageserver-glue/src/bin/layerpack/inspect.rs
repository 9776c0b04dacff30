//! `layerpack inspect`.

use std::path::Path;

use pageserver_glue::{Absent, without_secrets};
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
    let subject = find_subject(session, &arguments.subject).await?;
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

/// A file, or an object by its URL: the key is what begins with the last `tenants/` of the path. What follows the `?` of
/// an S3 URL are options of the store; in a file URL it is part of a name, and refused where that is parsed.
async fn find_subject(session: &Session, text: &str) -> Result<Subject, Failure> {
    if !text.contains("://") {
        return Ok(Subject::File(text.into()));
    }
    let (path, options) = text.split_at(text.find('?').unwrap_or(text.len()));
    let shown = without_secrets(text);
    let Some((store, key)) = path.rfind("/tenants/").map(|at| (&path[..at], &path[at + 1..])) else {
        return Err(Failure::Usage(format!(
            "{shown:?} is not the URL of an object: the store's URL and a key as in /tenants/T/timelines/L/log/N"
        )));
    };
    let remote = session.parse_remote(&format!("{store}{options}"))?;
    let key =
        Key::new(key).map_err(|error| Failure::Usage(format!("{shown:?} is no object's URL: {error}")))?;
    Ok(Subject::Object(session.connect(&remote, Absent::Refuse).await?, key))
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
