//! Tests of the formats through their public interface, with readers of their own where that is possible.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod dissect;
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
mod writer;
