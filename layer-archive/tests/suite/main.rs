//! Tests of the formats through their public interface, with readers of their own where that is possible.
#![expect(clippy::cast_possible_truncation, reason = "the tests' own numbers are small")]

#[cfg(test)]
mod damage;
#[cfg(test)]
mod dissect;
#[cfg(test)]
mod document;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod manifest;
#[cfg(test)]
mod manifest_cost;
#[cfg(test)]
mod pack;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod stock_tools;
#[cfg(test)]
#[path = "../../examples/worked_example/walker.rs"]
mod walker;
#[cfg(test)]
#[path = "../../examples/worked_example/annotate.rs"]
mod worked_example;
#[cfg(test)]
mod writer;
