//! Tests of the room beside.
