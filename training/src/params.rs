//! Trained parameters: one ordered, flat buffer each for values, gradients and the optimizer's moments.

use std::ops::Range;

use crate::backend::{Backend, Result, Span, SpanMut};

/// One trained tensor and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name of the tensor in the files that are saved.
    pub name: String,
    /// Shape in the files.
    pub shape: Vec<usize>,
    /// First element in the flat buffers.
    pub at: usize,
    /// Whether the buffers hold the transpose of what the files hold (two dimensions).
    pub transposed: bool,
    /// The rows of the files in the order of the buffers, where that is another one.
    pub rows: Option<Vec<usize>>,
    /// The columns likewise.
    pub columns: Option<Vec<usize>>,
    /// Whether weight decay applies.
    pub decay: bool,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements as the files hold them, from the elements as the buffers hold them, or the reverse if `store`.
    fn reorder(&self, data: &[f32], store: bool) -> Vec<f32> {
        let (rows, cols) = match *self.shape.as_slice() {
            [rows, cols] => (rows, cols),
            [rows] => (rows, 1),
            _ => return data.to_vec(),
        };
        let place = |order: &Option<Vec<usize>>, at: usize| order.as_ref().map_or(at, |order| order[at]);
        let mut found = vec![0.0; data.len()];
        for i in 0..rows {
            for j in 0..cols {
                let held = if self.transposed { j * rows + i } else { i * cols + j };
                let filed = place(&self.rows, i) * cols + place(&self.columns, j);
                let (from, to) = if store { (filed, held) } else { (held, filed) };
                found[to] = data[from];
            }
        }
        found
    }
}

/// The order of the parameters: fixed by the model's structure, never by a hash map, so that files, random streams and
/// reductions over ranks agree everywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    params: Vec<Param>,
    len: usize,
    /// Where the parameters of every block begin.
    blocks: Vec<usize>,
}

impl Layout {
    /// Adds a parameter at the end and returns its place.
    pub fn push(&mut self, name: String, shape: Vec<usize>, transposed: bool, decay: bool) -> usize {
        let at = self.len;
        self.len += shape.iter().product::<usize>();
        self.params.push(Param { name, shape, at, transposed, rows: None, columns: None, decay });
        at
    }

    /// Says in which order the files have the rows and columns of the last parameter, where it is another one.
    pub fn reorder(&mut self, rows: Option<Vec<usize>>, columns: Option<Vec<usize>>) {
        if let Some(last) = self.params.last_mut() {
            (last.rows, last.columns) = (rows, columns);
        }
    }

    /// Says that the parameters of the next block follow.
    pub fn begin_block(&mut self) {
        self.blocks.push(self.len);
    }

    /// Where the parameters of every block begin; what lies outside of all blocks comes first.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// The parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Number of elements of all parameters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Values, gradients and moments of all trained parameters, in the order of a [`Layout`].
#[derive(Debug)]
pub struct ParamStore<B: Backend> {
    layout: Layout,
    /// The parameters.
    pub values: B::Buf,
    /// Their gradients, summed over the micro-batches of an update.
    pub grads: B::Buf,
    /// Running mean of the gradients.
    pub mean: B::Buf,
    /// Running mean of the squared gradients.
    pub square: B::Buf,
    /// The elements whose means are here; another rank has the others.
    moments: Range<usize>,
    /// The elements whose values and gradients are here.
    held: Range<usize>,
    /// Whether other ranks have the others.
    part: bool,
}

impl<B: Backend> ParamStore<B> {
    /// All zeros.
    ///
    /// # Errors
    /// If there is no memory for them, or the device fails.
    pub fn new(backend: &B, layout: Layout) -> Result<Self> {
        let all = 0..layout.len();
        Ok(Self { part: false, ..Self::part(backend, layout, all)? })
    }

    /// All zeros, of these elements only: other ranks have the others.
    ///
    /// # Errors
    /// If there is no memory for them, or the device fails.
    pub fn part(backend: &B, layout: Layout, held: Range<usize>) -> Result<Self> {
        let (values, grads) = (backend.zeros(held.len())?, backend.zeros(held.len())?);
        let (mean, square) = (backend.moments(held.len())?, backend.moments(held.len())?);
        Ok(Self { values, grads, mean, square, layout, moments: held.clone(), held, part: true })
    }

    /// All values at zero and nothing else: for files.
    ///
    /// # Errors
    /// If there is no memory for them, or the device fails.
    pub fn values(backend: &B, layout: Layout) -> Result<Self> {
        let (values, held) = (backend.zeros(layout.len())?, 0..layout.len());
        let (grads, mean, square) = (backend.zeros(0)?, backend.zeros(0)?, backend.zeros(0)?);
        Ok(Self { values, grads, mean, square, layout, moments: 0..0, held, part: false })
    }

    /// The elements whose values and gradients are here.
    pub fn held(&self) -> Range<usize> {
        self.held.clone()
    }

    /// Whether other ranks have some of the values.
    pub fn is_part(&self) -> bool {
        self.part
    }

    /// Keeps the means of these elements only, at 0.
    ///
    /// # Errors
    /// If there is no memory for them, or the device fails.
    pub fn shard_moments(&mut self, backend: &B, range: Range<usize>) -> Result<()> {
        (self.mean, self.square) = (backend.moments(range.len())?, backend.moments(range.len())?);
        self.moments = range;
        Ok(())
    }

    /// The elements whose means are here.
    pub fn moments(&self) -> Range<usize> {
        self.moments.clone()
    }

    /// The order of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of trained parameters.
    pub fn len(&self) -> usize {
        self.layout.len
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// Elements of one parameter in one of the buffers, in the shape of the files; all of them are here.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, backend: &B, buf: &B::Buf, param: &Param) -> Result<Vec<f32>> {
        Ok(param.reorder(&backend.read(Span { buf, at: param.at, len: param.len() })?, false))
    }

    /// Sets the value of one parameter as far as it is here, given in the shape of the files.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set(&mut self, backend: &B, param: &Param, data: &[f32]) -> Result<()> {
        let from = param.at.max(self.held.start);
        let to = (param.at + param.len()).min(self.held.end);
        if from >= to {
            return Ok(());
        }
        let span = SpanMut { buf: &mut self.values, at: from - self.held.start, len: to - from };
        backend.write(&param.reorder(data, true)[from - param.at..to - param.at], span)
    }

    /// The gradient of one parameter, in the shape of the files.
    ///
    /// # Errors
    /// If the device fails.
    pub fn grad(&self, backend: &B, param: &Param) -> Result<Vec<f32>> {
        self.read(backend, &self.grads, param)
    }

    /// The value of one parameter, in the shape of the files.
    ///
    /// # Errors
    /// If the device fails.
    pub fn value(&self, backend: &B, param: &Param) -> Result<Vec<f32>> {
        self.read(backend, &self.values, param)
    }

    /// Sets the value of one parameter, given in the shape of the files.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_value(&mut self, backend: &B, param: usize, data: &[f32]) -> Result<()> {
        let param = self.layout.params[param].clone();
        self.set(backend, &param, data)
    }

    /// Sets all gradients to 0.
    ///
    /// # Errors
    /// If the device fails.
    pub fn clear_grads(&mut self, backend: &B) -> Result<()> {
        backend.clear(&mut self.grads)
    }

    /// Adjacent elements that are all decayed or all not.
    pub fn decay_ranges(&self) -> Vec<(Range<usize>, bool)> {
        let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
        for param in &self.layout.params {
            let end = param.at + param.len();
            match ranges.last_mut() {
                Some((range, decay)) if *decay == param.decay => range.end = end,
                _ => ranges.push((param.at..end, param.decay)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::CpuBackend;

    #[test]
    fn transposed_parameters_round_trip() {
        let backend = CpuBackend::new();
        let mut layout = Layout::default();
        layout.push("a".into(), vec![2], false, false);
        layout.push("b".into(), vec![2, 3], true, true);
        layout.push("c".into(), vec![1], false, true);
        let mut store = ParamStore::new(&backend, layout).expect("memory");
        store.set_value(&backend, 1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("memory");
        assert_eq!(store.values[..], [0.0, 0.0, 1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 0.0]);
        let param = store.layout().params()[1].clone();
        assert_eq!(store.value(&backend, &param).expect("memory"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(store.decay_ranges(), [(0..2, false), (2..9, true)]);
    }

    #[test]
    fn rows_and_columns_in_another_order_round_trip() {
        let backend = CpuBackend::new();
        let mut layout = Layout::default();
        layout.push("a".into(), vec![3, 2], true, true);
        layout.reorder(Some(vec![2, 0, 1]), Some(vec![1, 0]));
        let mut store = ParamStore::new(&backend, layout).expect("memory");
        store.set_value(&backend, 0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("memory");
        assert_eq!(store.values[..], [6.0, 2.0, 4.0, 5.0, 1.0, 3.0]);
        let param = store.layout().params()[0].clone();
        assert_eq!(store.value(&backend, &param).expect("memory"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
