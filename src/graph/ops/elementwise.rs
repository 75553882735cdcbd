//! Operators that work on each element by itself.

use super::super::builder::int;
use super::super::{DType, GraphBuilder, GraphError, Tensor};

/// Operators of two tensors of one number type, broadcast.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $op:literal;)*) => {
        impl GraphBuilder {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`GraphError::Dtype`] when the types differ or are `bool`, [`GraphError::Shape`] when the shapes do not
                /// broadcast.
                pub fn $name(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
                    self.binary($op, a, b, None)
                }
            )*
        }
    };
}

/// Comparisons of two tensors of one type, broadcast, to `bool`.
macro_rules! compare {
    ($($(#[$doc:meta])* $name:ident => $op:literal;)*) => {
        impl GraphBuilder {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`GraphError::Dtype`] when the types differ, [`GraphError::Shape`] when the shapes do not broadcast.
                pub fn $name(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
                    self.binary($op, a, b, Some(DType::Bool))
                }
            )*
        }
    };
}

/// Operators of one tensor of floats.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $op:literal;)*) => {
        impl GraphBuilder {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`GraphError::Dtype`] when the elements are not floats.
                pub fn $name(&mut self, x: &Tensor) -> Result<Tensor, GraphError> {
                    self.float_only($op, x)?;
                    self.node($op, &[x], Vec::new(), x.dtype(), x.shape().clone())
                }
            )*
        }
    };
}

/// Operators of a tensor and a number of its type.
macro_rules! with_scalar {
    ($($(#[$doc:meta])* $name:ident => $of:ident;)*) => {
        impl GraphBuilder {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`GraphError::Dtype`] when the elements are `bool`.
                pub fn $name(&mut self, x: &Tensor, number: f64) -> Result<Tensor, GraphError> {
                    let number = self.scalar(x.dtype(), number)?;
                    self.$of(x, &number)
                }
            )*
        }
    };
}

binary! {
    /// `a + b`
    add => "Add";
    /// `a − b`
    sub => "Sub";
    /// `a · b`
    mul => "Mul";
    /// `a / b`; integers are cut off.
    div => "Div";
    /// `a` to the power of `b`.
    pow => "Pow";
    /// The smaller of the two.
    min => "Min";
    /// The larger of the two.
    max => "Max";
}

compare! {
    /// `a = b`
    equal => "Equal";
    /// `a < b`
    less => "Less";
    /// `a > b`
    greater => "Greater";
}

with_scalar! {
    /// `x + number`
    add_scalar => add;
    /// `x − number`
    sub_scalar => sub;
    /// `x · number`
    mul_scalar => mul;
    /// `x / number`
    div_scalar => div;
    /// `x` to the power of `number`.
    pow_scalar => pow;
}

unary! {
    /// `√x`
    sqrt => "Sqrt";
    /// `eˣ`
    exp => "Exp";
    /// `ln x`
    log => "Log";
    /// `sin x`, in radians.
    sin => "Sin";
    /// `cos x`, in radians.
    cos => "Cos";
    /// `tanh x`
    tanh => "Tanh";
    /// The error function.
    erf => "Erf";
    /// `1 / (1 + e⁻ˣ)`
    sigmoid => "Sigmoid";
    /// `max(0, x)`
    relu => "Relu";
    /// `1 / x`
    reciprocal => "Reciprocal";
    /// `|x|`
    abs => "Abs";
    /// `−x`
    neg => "Neg";
    /// The nearest whole number, halves to the even one.
    round => "Round";
    /// The next whole number down.
    floor => "Floor";
    /// The next whole number up.
    ceil => "Ceil";
}

impl GraphBuilder {
    fn binary(&mut self, op: &'static str, a: &Tensor, b: &Tensor, to: Option<DType>) -> Result<Tensor, GraphError> {
        self.same_dtype(op, a, b)?;
        if a.dtype() == DType::Bool && (to.is_none() || op != "Equal") {
            return Err(self.dtype_error(op, "numbers are needed, not bool".to_owned()));
        }
        let shape = self.broadcast(op, a, b)?;
        self.node(op, &[a, b], Vec::new(), to.unwrap_or(a.dtype()), shape)
    }

    /// The same numbers as another type. Floats become integers by cutting off; out of range the result is the
    /// runtime's own, so clip first.
    ///
    /// # Errors
    /// [`GraphError::Foreign`].
    pub fn cast(&mut self, x: &Tensor, to: DType) -> Result<Tensor, GraphError> {
        if x.dtype() == to {
            self.own("Cast", x)?;
            return Ok(x.clone());
        }
        self.node("Cast", &[x], vec![int("to", to.code().into())], to, x.shape().clone())
    }

    /// `min(max(x, low), high)`
    ///
    /// # Errors
    /// [`GraphError::Dtype`] when the elements are `bool`, [`GraphError::Data`] when `low` is not below `high`.
    pub fn clip(&mut self, x: &Tensor, low: f64, high: f64) -> Result<Tensor, GraphError> {
        if low >= high || low.is_nan() || high.is_nan() {
            return Err(self.data_error("Clip", format!("{low} is not below {high}")));
        }
        let (low, high) = (self.scalar(x.dtype(), low)?, self.scalar(x.dtype(), high)?);
        self.node("Clip", &[x, &low, &high], Vec::new(), x.dtype(), x.shape().clone())
    }

    /// `a` where `condition` is true, else `b`, all broadcast.
    ///
    /// # Errors
    /// [`GraphError::Dtype`] when `condition` is not `bool` or the others differ, [`GraphError::Shape`].
    pub fn select(&mut self, condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
        if condition.dtype() != DType::Bool {
            return Err(self.dtype_error("Where", format!("the condition is {}, not bool", condition.dtype())));
        }
        self.same_dtype("Where", a, b)?;
        let both = self.broadcast("Where", a, b)?;
        let shape = condition
            .shape()
            .broadcast(&both)
            .ok_or_else(|| self.shape_error("Where", format!("{} and {both} do not broadcast", condition.shape())))?;
        self.node("Where", &[condition, a, b], Vec::new(), a.dtype(), shape)
    }

    /// `a and b`, of `bool`, broadcast.
    ///
    /// # Errors
    /// [`GraphError::Dtype`], [`GraphError::Shape`] when the shapes do not broadcast.
    pub fn and(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
        if [a, b].iter().any(|x| x.dtype() != DType::Bool) {
            return Err(self.dtype_error("And", format!("bool is needed, not {} and {}", a.dtype(), b.dtype())));
        }
        let shape = self.broadcast("And", a, b)?;
        self.node("And", &[a, b], Vec::new(), DType::Bool, shape)
    }

    /// `not x`, of `bool`.
    ///
    /// # Errors
    /// [`GraphError::Dtype`].
    pub fn not(&mut self, x: &Tensor) -> Result<Tensor, GraphError> {
        if x.dtype() != DType::Bool {
            return Err(self.dtype_error("Not", format!("bool is needed, not {}", x.dtype())));
        }
        self.node("Not", &[x], Vec::new(), DType::Bool, x.shape().clone())
    }

    /// `x · sigmoid(x)`, also called swish.
    ///
    /// # Errors
    /// As [`Self::sigmoid`].
    pub fn silu(&mut self, x: &Tensor) -> Result<Tensor, GraphError> {
        let gate = self.sigmoid(x)?;
        self.mul(x, &gate)
    }

    /// `x / 2 · (1 + erf(x / √2))`, the exact form.
    ///
    /// # Errors
    /// As [`Self::erf`].
    pub fn gelu(&mut self, x: &Tensor) -> Result<Tensor, GraphError> {
        let inner = self.div_scalar(x, std::f64::consts::SQRT_2)?;
        let inner = self.erf(&inner)?;
        let inner = self.add_scalar(&inner, 1.0)?;
        let product = self.mul(x, &inner)?;
        self.mul_scalar(&product, 0.5)
    }

    /// `x · sigmoid(1.702 x)`, the form that CLIP was trained with.
    ///
    /// # Errors
    /// As [`Self::sigmoid`].
    pub fn quick_gelu(&mut self, x: &Tensor) -> Result<Tensor, GraphError> {
        let scaled = self.mul_scalar(x, 1.702)?;
        let gate = self.sigmoid(&scaled)?;
        self.mul(x, &gate)
    }
}
