//! Scaling and colour conversion in one pass of swscale.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi as sys;

use super::AvError;
use super::data::Picture;
use crate::frame::{Color, Matrix, PixelFormat, Size};

/// Vector code of swscale touches up to this many bytes past the end of a row.
const OVERRUN: usize = 64;

/// Part of a picture, in pixels. Offsets are even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) struct Rect {
    pub x: u32,
    pub y: u32,
    pub size: Size,
}

/// A tight picture of our own to read from.
pub(in crate::media) struct Image<'a> {
    pub data: &'a [u8],
    pub size: Size,
    pub format: PixelFormat,
}

/// A tight picture of our own to write to.
pub(in crate::media) struct ImageMut<'a> {
    pub data: &'a mut [u8],
    pub size: Size,
    pub format: PixelFormat,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Setup {
    from: (Size, c_int, Color),
    to: (Size, c_int, Color),
}

/// A conversion that keeps its tables while the formats stay the same.
#[derive(Default)]
pub(in crate::media) struct Scaler {
    context: Context,
    setup: Option<Setup>,
    bounce: Option<(Size, c_int, Picture)>,
}

struct Context(*mut sys::SwsContext);

impl Default for Context {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

// SAFETY: a SwsContext has no thread affinity and is owned.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: null or ours.
        unsafe { sys::sws_freeContext(self.0) };
    }
}

impl Scaler {
    /// Converts the part `rect` of `source` into the whole of `to`. YUV samples of the source are read as `color`; a YUV
    /// target keeps the same matrix and range.
    pub fn picture_to_image(
        &mut self,
        source: &Picture,
        rect: Rect,
        color: Color,
        mut to: ImageMut<'_>,
    ) -> Result<(), AvError> {
        let inside =
            rect.x + rect.size.width <= source.size().width && rect.y + rect.size.height <= source.size().height;
        if !inside || to.data.len() != to.format.bytes(to.size) || to.size.pixels() == 0 || rect.size.pixels() == 0 {
            return Err(AvError(-libc::EINVAL));
        }
        let (data, stride) = crop(source, rect)?;
        let target = pixel_format(to.format);
        self.open(Setup { from: (rect.size, source.format(), color), to: (to.size, target as c_int, color) })?;
        let (row, _) = to.rows();
        if row % OVERRUN == 0 && (to.format == PixelFormat::Rgb24 || (row / 2) % OVERRUN == 0) {
            let (planes, strides) = to.pointers();
            // SAFETY: source planes were checked against the picture; target planes cover the buffer exactly, and rows are
            // multiples of the vector length, so nothing is written past a row's end.
            return unsafe { self.run(&data, &stride, rect.size.height, &planes, &strides) };
        }
        // Rows of other lengths go through a padded picture, since the vector code writes past their ends.
        let key = (to.size, target as c_int);
        let mut bounce = match self.bounce.take() {
            Some((size, format, picture)) if (size, format) == key => picture,
            _ => Picture::allocate(to.size, target)?,
        };
        bounce.make_writable()?;
        let f = bounce.0.get();
        // SAFETY: as above; the picture's rows are padded by FFmpeg's allocator.
        unsafe {
            self.run(
                &data,
                &stride,
                rect.size.height,
                &f.data[..4].try_into().unwrap_or([ptr::null_mut(); 4]),
                &f.linesize[..4].try_into().unwrap_or([0; 4]),
            )
        }?;
        to.copy_from(&bounce);
        self.bounce = Some((key.0, key.1, bounce));
        Ok(())
    }

    /// Converts `source` into the whole of `to`. YUV samples on either side are read or written as the two colours say.
    pub fn image_to_picture(
        &mut self,
        source: &Image<'_>,
        source_color: Color,
        to: &mut Picture,
        to_color: Color,
    ) -> Result<(), AvError> {
        if source.data.len() != source.format.bytes(source.size) || source.size.pixels() == 0 {
            return Err(AvError(-libc::EINVAL));
        }
        to.make_writable()?;
        let format = pixel_format(source.format);
        self.open(Setup {
            from: (source.size, format as c_int, source_color),
            to: (to.size(), to.format(), to_color),
        })?;
        // The vector code reads past the end of a row, so the source passes through a padded copy.
        let key = (source.size, format as c_int);
        let mut bounce = match self.bounce.take() {
            Some((size, format, picture)) if (size, format) == key => picture,
            _ => Picture::allocate(source.size, format)?,
        };
        bounce.make_writable()?;
        let mut rest = source.data;
        for (plane, (bytes, rows)) in plane_shapes(source.format, source.size).into_iter().enumerate() {
            let (here, after) = rest.split_at(bytes * rows);
            rest = after;
            if rows > 0 && !bounce.fill(plane, bytes, rows, here) {
                return Err(AvError(-libc::EINVAL));
            }
        }
        let from = bounce.0.get();
        let (data, stride) = (first4(&from.data).map(|p| p.cast_const()), first4(&from.linesize));
        let f = to.0.get();
        // SAFETY: both pictures are FFmpeg's own, padded, of the sizes and formats that the context was opened for.
        unsafe { self.run(&data, &stride, source.size.height, &first4(&f.data), &first4(&f.linesize)) }?;
        self.bounce = Some((key.0, key.1, bounce));
        Ok(())
    }

    unsafe fn run(
        &mut self,
        from: &[*const u8; 4],
        from_stride: &[c_int; 4],
        height: u32,
        to: &[*mut u8; 4],
        to_stride: &[c_int; 4],
    ) -> Result<(), AvError> {
        // SAFETY: the caller vouches for the planes; the context was opened for their sizes and formats.
        AvError::check(unsafe {
            sys::sws_scale(
                self.context.0,
                from.as_ptr(),
                from_stride.as_ptr(),
                0,
                height as c_int,
                to.as_ptr(),
                to_stride.as_ptr(),
            )
        })
        .map(|_| ())
    }

    fn open(&mut self, setup: Setup) -> Result<(), AvError> {
        if self.setup == Some(setup) {
            return Ok(());
        }
        self.setup = None;
        self.context = Context::default();
        let known = |f: c_int| f >= 0 && f < sys::AVPixelFormat::AV_PIX_FMT_NB as c_int;
        if !known(setup.from.1) || !known(setup.to.1) {
            return Err(AvError(-libc::EINVAL));
        }
        // SAFETY: no arguments.
        let context = unsafe { sys::sws_alloc_context() };
        if context.is_null() {
            return Err(AvError(-libc::ENOMEM));
        }
        self.context = Context(context);
        let (from, to) = (setup.from.2, setup.to.2);
        // The ranges are known before the context chooses its way: between equal sizes and layouts that would be a plain copy.
        let options = [
            (c"srcw", setup.from.0.width as c_int),
            (c"srch", setup.from.0.height as c_int),
            (c"src_format", plain(setup.from.1)),
            (c"src_range", c_int::from(from.full_range)),
            (c"dstw", setup.to.0.width as c_int),
            (c"dsth", setup.to.0.height as c_int),
            (c"dst_format", plain(setup.to.1)),
            (c"dst_range", c_int::from(to.full_range)),
            (c"sws_flags", sys::SWS_BILINEAR as c_int),
        ];
        for (name, value) in options {
            // SAFETY: a live context, whose first field is its class; the name is terminated.
            AvError::check(unsafe { sys::av_opt_set_int(context.cast(), name.as_ptr(), value.into(), 0) })?;
        }
        // SAFETY: a live context that is not initialised yet; sizes and formats are checked by it.
        AvError::check(unsafe { sys::sws_init_context(context, ptr::null_mut(), ptr::null_mut()) })?;
        // SAFETY: a live context; the tables are static. A negative answer only means that the formats have no matrix.
        unsafe {
            sys::sws_setColorspaceDetails(
                context,
                sys::sws_getCoefficients(coefficients(from.matrix)),
                c_int::from(from.full_range),
                sys::sws_getCoefficients(coefficients(to.matrix)),
                c_int::from(to.full_range),
                0,
                1 << 16,
                1 << 16,
            );
        }
        self.setup = Some(setup);
        Ok(())
    }
}

impl ImageMut<'_> {
    /// Bytes of a row of the first plane, and rows.
    fn rows(&self) -> (usize, usize) {
        plane_shapes(self.format, self.size)[0]
    }

    fn pointers(&mut self) -> ([*mut u8; 4], [c_int; 4]) {
        let (mut planes, mut strides) = ([ptr::null_mut(); 4], [0; 4]);
        let mut rest = &mut *self.data;
        for (i, (bytes, rows)) in plane_shapes(self.format, self.size).into_iter().enumerate() {
            if rows > 0 {
                let (here, after) = rest.split_at_mut(bytes * rows);
                (planes[i], strides[i]) = (here.as_mut_ptr(), bytes as c_int);
                rest = after;
            }
        }
        (planes, strides)
    }

    fn copy_from(&mut self, picture: &Picture) {
        let mut rest = &mut *self.data;
        for (i, (bytes, rows)) in plane_shapes(self.format, self.size).into_iter().enumerate() {
            let (here, after) = rest.split_at_mut(bytes * rows);
            for (to, from) in here.chunks_exact_mut(bytes.max(1)).zip(picture.rows(i, bytes, rows)) {
                to.copy_from_slice(from);
            }
            rest = after;
        }
    }
}

/// Bytes of a row and rows of each plane.
fn plane_shapes(format: PixelFormat, size: Size) -> [(usize, usize); 3] {
    let (w, h) = (size.width as usize, size.height as usize);
    match format {
        PixelFormat::Rgb24 => [(w * 3, h), (0, 0), (0, 0)],
        PixelFormat::I420 => [(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))],
    }
}

fn first4<T: Copy>(all: &[T; 8]) -> [T; 4] {
    [all[0], all[1], all[2], all[3]]
}

fn pixel_format(format: PixelFormat) -> sys::AVPixelFormat {
    match format {
        PixelFormat::I420 => sys::AVPixelFormat::AV_PIX_FMT_YUV420P,
        PixelFormat::Rgb24 => sys::AVPixelFormat::AV_PIX_FMT_RGB24,
    }
}

/// The same layout without the range in its name, since the range is passed apart.
fn plain(format: c_int) -> c_int {
    use sys::AVPixelFormat as F;
    match format {
        f if f == F::AV_PIX_FMT_YUVJ420P as c_int => F::AV_PIX_FMT_YUV420P as c_int,
        f if f == F::AV_PIX_FMT_YUVJ422P as c_int => F::AV_PIX_FMT_YUV422P as c_int,
        f if f == F::AV_PIX_FMT_YUVJ444P as c_int => F::AV_PIX_FMT_YUV444P as c_int,
        f => f,
    }
}

fn coefficients(matrix: Matrix) -> c_int {
    match matrix {
        Matrix::Bt601 => sys::SWS_CS_ITU601 as c_int,
        Matrix::Bt709 => sys::SWS_CS_ITU709 as c_int,
    }
}

/// The plane pointers of the part `rect` of `picture`.
fn crop(picture: &Picture, rect: Rect) -> Result<([*const u8; 4], [c_int; 4]), AvError> {
    let f = picture.0.get();
    if f.format < 0 || f.format >= sys::AVPixelFormat::AV_PIX_FMT_NB as c_int {
        return Err(AvError(-libc::EINVAL));
    }
    // SAFETY: the format is a value of the enum; the description is static.
    let description =
        unsafe { sys::av_pix_fmt_desc_get(std::mem::transmute::<c_int, sys::AVPixelFormat>(f.format)).as_ref() }
            .ok_or(AvError(-libc::EINVAL))?;
    let mut steps = [0; 4];
    // SAFETY: an array of four steps to write, the description, and no components wanted.
    unsafe { sys::av_image_fill_max_pixsteps(steps.as_mut_ptr(), ptr::null_mut(), description) };
    let mut data = [ptr::null(); 4];
    for (i, plane) in data.iter_mut().enumerate() {
        if f.data[i].is_null() {
            continue;
        }
        let chroma = i == 1 || i == 2;
        let (sx, sy) = if chroma { (description.log2_chroma_w, description.log2_chroma_h) } else { (0, 0) };
        let offset = (rect.y as isize >> sy) * f.linesize[i] as isize + (rect.x as isize >> sx) * steps[i] as isize;
        // SAFETY: the rectangle lies inside the picture, so the first of its samples lies inside the plane.
        *plane = unsafe { f.data[i].offset(offset).cast_const() };
    }
    Ok((data, first4(&f.linesize)))
}
