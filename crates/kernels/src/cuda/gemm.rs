//! Matrix products of a device.

use super::{
    Device, View,
    products::{Failed, Products},
    raw::{describe, lock},
};
use crate::KernelError;

impl Device {
    /// Whether factors of f32 products may be rounded to TF32 (10 bits of mantissa); off by default.
    ///
    /// # Errors
    /// If cuBLASLt does not start.
    pub fn set_tf32(&self, on: bool) -> Result<(), KernelError> {
        let mut products = lock(&self.0.products);
        self.products(&mut products)?.tf32 = on;
        Ok(())
    }

    fn products<'a>(&self, products: &'a mut Option<Products>) -> Result<&'a mut Products, KernelError> {
        if products.is_none() {
            self.bind();
            *products = Some(Products::new().map_err(|failed| self.failed(failed))?);
        }
        products.as_mut().ok_or_else(|| self.fail("cuBLASLt does not start"))
    }

    fn failed(&self, failed: Failed) -> KernelError {
        self.fail(match failed {
            Failed::Start(error) => format!("cuBLASLt does not start: {error}"),
            Failed::Memory(error) => format!("allocating: {}", describe(error)),
            Failed::Plan { size: [m, n, k], error } => {
                format!("cuBLASLt has no product of {m} x {k} by {k} x {n}: {error}")
            }
            Failed::Run { size: [m, n, k], error } => {
                format!("the product of {m} x {k} by {k} x {n} failed: {error}")
            }
        })
    }

    /// `c = beta * c + alpha * a * b`, summed in f32. Factors are of one type; the result may be of another.
    ///
    /// # Errors
    /// If the library has no kernel for the shapes, or the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn gemm(&self, alpha: f32, a: View<'_>, b: View<'_>, beta: f32, c: View<'_>) -> Result<(), KernelError> {
        assert!(a.rows == c.rows && a.cols == b.rows && b.cols == c.cols && !c.transposed, "shapes of a product");
        assert!(a.float == b.float, "factors of one type");
        if c.rows == 0 || c.cols == 0 || a.cols == 0 {
            return Ok(());
        }
        self.bind();
        let mut guard = lock(&self.0.products);
        let products = self.products(&mut guard)?;
        // SAFETY: the views lie inside of live buffers; all work that uses the workspace is on this stream.
        let result = unsafe { products.multiply((alpha, beta), [&a, &b, &c], self.stream()) };
        result.map_err(|failed| self.failed(failed))
    }
}
