//! Text out.

use crate::workflow::class::input::{flag, text};
use crate::workflow::class::{Class, Medium};
use crate::workflow::lower::{Cx, LowerError, Text, Value};

/// ComfyStream's node of text.
pub const CLASSES: &[Class] = &[Class {
    pack: "ComfyStream",
    inputs: &[text("data", "").live(), flag("remove_linebreaks", true).live()],
    sink: Some(Medium::Text),
    note: "Leaves by the data channel at the begin of the stream and whenever it is another text, not with every frame.",
    ..Class::words("SaveTextTensor", save)
}];

fn save(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let text = Text { data: cx.known("data")?, one_line: cx.known("remove_linebreaks")? };
    cx.tells(text);
    Ok(Vec::new())
}
