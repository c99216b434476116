//! A Parquet file whose sizes are checked before the `parquet` crate makes room by them.

use std::{fs::File, io::Read};

use flate2::read::MultiGzDecoder;
use parquet::{
    basic::{Compression, Encoding},
    bloom_filter::Sbbf,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    record::reader::RowIter,
    schema::types::{ColumnDescPtr, Type},
};

use super::{super::bounded::check_expanded, header::Header};

/// Values of the largest page whose lengths are read at once; writers make pages of some ten thousand.
const VALUES: usize = 1 << 24;

/// The reader of a file whose column chunks all lie inside the file.
pub(super) struct CheckedFile {
    reader: SerializedFileReader<File>,
    file: File,
}

impl CheckedFile {
    /// Reads the metadata.
    pub(super) fn new(file: File) -> Result<Self> {
        let len = file.metadata()?.len();
        let reader = SerializedFileReader::new(file.try_clone()?)?;
        for (number, group) in reader.metadata().row_groups().iter().enumerate() {
            for column in group.columns() {
                let begin = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                let (first, bytes) = (column.data_page_offset(), column.compressed_size());
                let end = begin.checked_add(bytes).and_then(|end| u64::try_from(end).ok());
                if begin < 0 || first < 0 || bytes < 0 || end.is_none_or(|end| end > len) {
                    return Err(broken(format!(
                        "column {} of row group {number} has {bytes} bytes from {begin} on, the file {len}",
                        column.column_path()
                    )));
                }
            }
        }
        Ok(Self { reader, file })
    }
}

impl FileReader for CheckedFile {
    fn metadata(&self) -> &ParquetMetaData {
        self.reader.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.reader.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(CheckedGroup { group: self.reader.get_row_group(i)?, file: &self.file }))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct CheckedGroup<'a> {
    group: Box<dyn RowGroupReader + 'a>,
    file: &'a File,
}

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.group.metadata()
    }

    fn num_columns(&self) -> usize {
        self.group.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().schema_descr().column(i);
        let chunk = Chunk::new(self.file.try_clone()?, self.metadata().column(i));
        Ok(Box::new(CheckedPages { pages: self.group.get_column_page_reader(i)?, column, chunk }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&Sbbf> {
        self.group.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    column: ColumnDescPtr,
    chunk: Chunk,
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.chunk.check_next().map_err(|reason| broken(format!("column {}: {reason}", self.column.path())))?;
        let page = self.pages.get_next_page()?;
        page.map(|page| check(&page, &self.column).map(|()| page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.chunk.check_next().map_err(|reason| broken(format!("column {}: {reason}", self.column.path())))?;
        self.pages.skip_next_page()
    }
}

/// The part of the file that the pages of a column lie in, from the next page on.
struct Chunk {
    file: File,
    next: u64,
    end: u64,
    compression: Compression,
}

impl Chunk {
    fn new(file: File, column: &ColumnChunkMetaData) -> Self {
        let (next, bytes) = column.byte_range();
        Self { file, next, end: next.saturating_add(bytes), compression: column.compression() }
    }

    /// Fails if the next page does not lie in the part, or is longer than its bytes can be; goes on behind it.
    fn check_next(&mut self) -> std::result::Result<(), String> {
        while self.next < self.end {
            let read = |at: u64, bytes| Ok::<_, ParquetError>(self.file.get_read(at)?.take(bytes));
            let failed = |reason: &dyn std::fmt::Display| format!("the page at byte {}: {reason}", self.next);
            let input = read(self.next, self.end - self.next).map_err(|error| failed(&error))?;
            let header = Header::read(input).map_err(|error| failed(&error))?;
            let page = self.next + header.bytes;
            let compressed = u64::try_from(header.compressed).ok().filter(|&bytes| bytes <= self.end - page);
            let (Some(compressed), Ok(expanded)) = (compressed, u64::try_from(header.expanded)) else {
                let Header { compressed, expanded, .. } = header;
                let left = self.end - page;
                return Err(failed(&format!(
                    "its header names {compressed} bytes, {expanded} when expanded, of {left}"
                )));
            };
            if self.compression != Compression::UNCOMPRESSED {
                check_expanded(expanded, compressed).map_err(|reason| failed(&reason))?;
            }
            if matches!(self.compression, Compression::GZIP(_)) {
                // This is expanded to its end, whatever its header says.
                let input = read(page, compressed).map_err(|error| failed(&error))?;
                let mut bytes = MultiGzDecoder::new(input).take(expanded + 1);
                let found = std::io::copy(&mut bytes, &mut std::io::sink()).map_err(|error| failed(&error))?;
                if found > expanded {
                    return Err(failed(&format!("it has more than the {expanded} bytes that its header names")));
                }
            }
            self.next = page + compressed;
            if header.is_data() {
                break;
            }
        }
        Ok(())
    }
}

/// Fails where room would be made for more values than a page can have.
fn check(page: &Page, column: &ColumnDescPtr) -> Result<()> {
    let (found, most) = match page {
        Page::DictionaryPage { buf, num_values, .. } => (*num_values as usize, buf.len()),
        Page::DataPage { encoding, .. } | Page::DataPageV2 { encoding, .. }
            if matches!(encoding, Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY) =>
        {
            let count = values(page, column).and_then(|values| {
                // Behind the sizes of a block and of its parts.
                let rest = varint(varint(values)?.1)?.1;
                usize::try_from(varint(rest)?.0).ok()
            });
            (count.unwrap_or(usize::MAX), VALUES.min(page.num_values() as usize))
        }
        _ => return Ok(()),
    };
    if found <= most {
        return Ok(());
    }
    Err(broken(format!("a page of column {} names {found} values, expected at most {most}", column.path())))
}

/// The values of a page, behind its levels; `None` if it ends before.
fn values<'a>(page: &'a Page, column: &ColumnDescPtr) -> Option<&'a [u8]> {
    match page {
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            buf.get((*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)?..)
        }
        Page::DataPage { buf, .. } => {
            let levels = [column.max_rep_level(), column.max_def_level()].into_iter().filter(|&level| level > 0);
            levels.into_iter().try_fold(buf.as_ref(), |rest: &[u8], _| {
                let (&len, rest) = rest.split_first_chunk()?;
                rest.get(u32::from_le_bytes(len) as usize..)
            })
        }
        Page::DictionaryPage { buf, .. } => Some(buf),
    }
}

/// An integer of seven bits a byte, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=end]
        .iter()
        .rev()
        .try_fold(0u64, |value, byte| value.checked_mul(128).map(|value| value | u64::from(byte & 0x7f)));
    Some((value?, &bytes[end + 1..]))
}

fn broken(reason: String) -> ParquetError {
    ParquetError::General(reason)
}
