//! Builds a small record and a small manifest and prints every byte of them with its meaning: the worked example of
//! `docs/format.md`.

mod annotate;
#[path = "../../tests/suite/pack.rs"]
mod pack;
mod walker;

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() -> Result<(), layer_archive::FormatError> {
    print!("{}", annotate::worked_example()?);
    Ok(())
}
