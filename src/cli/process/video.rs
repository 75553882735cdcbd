//! stub
use super::error::ProcessError;
use super::stages::{Buffers, Item, Sink, Source};
use crate::engine;
use crate::frame::Size;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
pub fn knows(extension: &str) -> bool { ["mp4","ts"].contains(&extension) }
pub struct VideoSource;
impl VideoSource { pub fn open(path: &Path, _: &engine::Config, _: u32, _: Arc<AtomicBool>) -> Result<Self, ProcessError> { Err(ProcessError::Input{path: path.display().to_string(), reason: "x".into()}) } }
impl Source for VideoSource { fn size(&self)->Option<Size>{None} fn frames(&self)->Option<u64>{None} fn fps(&self)->Option<f64>{None}
 fn read(&mut self, _: &Buffers<'_>, _: &mut dyn FnMut(Item) -> bool) -> Result<(), ProcessError> {Ok(())} }
pub struct VideoSink;
impl VideoSink { pub fn create(path: &Path, _: Size, _: Option<f64>, _: &engine::Config) -> Result<Self, ProcessError> { Err(ProcessError::Input{path: path.display().to_string(), reason: "x".into()}) } }
impl Sink for VideoSink { fn put(&mut self, _: Item) -> Result<(), ProcessError> {Ok(())} fn finish(&mut self)-> Result<(), ProcessError> {Ok(())} }
