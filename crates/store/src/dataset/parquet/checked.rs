//! A Parquet file whose sizes are checked before the `parquet` crate makes room by them.

use parquet::{
    basic::Encoding,
    bloom_filter::Sbbf,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        reader::{FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    record::reader::RowIter,
    schema::types::{ColumnDescPtr, Type},
};

/// Values of the largest page whose lengths are read at once; writers make pages of some ten thousand.
const VALUES: usize = 1 << 24;

/// The reader of a file whose column chunks all lie inside the file.
pub(super) struct CheckedFile(SerializedFileReader<std::fs::File>);

impl CheckedFile {
    /// Reads the metadata.
    pub(super) fn new(file: std::fs::File) -> Result<Self> {
        let len = file.metadata()?.len();
        let reader = SerializedFileReader::new(file)?;
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
        Ok(Self(reader))
    }
}

impl FileReader for CheckedFile {
    fn metadata(&self) -> &ParquetMetaData {
        self.0.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.0.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(CheckedGroup(self.0.get_row_group(i)?)))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct CheckedGroup<'a>(Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().schema_descr().column(i);
        Ok(Box::new(CheckedPages { pages: self.0.get_column_page_reader(i)?, column }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    column: ColumnDescPtr,
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| check(&page, &self.column).map(|()| page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
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
