// The modules that every ternary dot-product engine (TDPE) is made of.
//
// Every addition is written {sum, unused} = {a, 1'b1} + {b, carry_in}: one adder cell with a carry-in, in every tool.
//
// A ternary product w*x, w in {-1, 0, 1}, is a select and an inversion, never a multiplication: t = (nonzero ? x : 0) ^ negative, and
// w*x = t + negative. The "+ negative" of each product but the first is the free carry-in of the adder that takes the product in. The
// first one leaves a sum as `carry` and is the carry-in of the rows of the scale multiplication: sum of products = sum + carry.

// LENGTH products added one after the other by adders of WIDTH bits each: what the formula (D-1)*(Bx+ceil(log2 D)) counts.
module ternary_chain #(
    parameter LENGTH = 1,
    parameter BX = 8,  // bits of an activation
    parameter SIGNED = 0,  // of the activations
    parameter WIDTH = 9,  // of the sum
    parameter CHECK = 0  // 1: raise overflow when an addition leaves WIDTH bits; 0: WIDTH is known to suffice
) (
    input [LENGTH*BX-1:0] x,
    input [LENGTH-1:0] nonzero,
    input [LENGTH-1:0] negative,
    output reg [WIDTH-1:0] sum,
    output carry,
    output reg overflow
);
  reg [WIDTH-1:0] previous;
  reg [WIDTH-1:0] t;
  reg [BX-1:0] selected;
  reg unused;
  integer i;
  assign carry = negative[0];
  always @* begin
    overflow = 1'b0;
    sum = {WIDTH{1'b0}};
    previous = {WIDTH{1'b0}};
    unused = 1'b0;
    for (i = 0; i < LENGTH; i = i + 1) begin
      selected = x[i*BX+:BX] & {BX{nonzero[i]}};
      t = $signed({SIGNED ? selected[BX-1] : 1'b0, selected});
      t = t ^ {WIDTH{negative[i]}};
      if (i == 0) sum = t;
      else begin
        previous = sum;
        {sum, unused} = {previous, 1'b1} + {t, negative[i]};
        if (CHECK) overflow = overflow | ((previous[WIDTH-1] == t[WIDTH-1]) & (sum[WIDTH-1] != t[WIDTH-1]));
      end
    end
  end
endmodule

// LENGTH products added by a balanced tree whose adders grow with the level; no adder is wider than LIMIT bits.
// The left half is the largest power of two below LENGTH, so that a node is one bit wider than its left half.
module ternary_tree #(
    parameter LENGTH = 1,
    parameter BX = 8,
    parameter SIGNED = 0,
    parameter LIMIT = 9,
    parameter NATURAL = BX + (SIGNED ? 0 : 1) + $clog2(LENGTH),
    parameter WIDTH = NATURAL < LIMIT ? NATURAL : LIMIT
) (
    input [LENGTH*BX-1:0] x,
    input [LENGTH-1:0] nonzero,
    input [LENGTH-1:0] negative,
    output [WIDTH-1:0] sum,
    output carry,
    output overflow
);
  assign carry = negative[0];
  generate
    if (LENGTH == 1) begin : leaf
      wire [BX-1:0] selected = x & {BX{nonzero}};
      wire [BX:0] extended = {1'b0, selected};  // without the extra bit where the activations are signed
      assign sum = extended[WIDTH-1:0] ^ {WIDTH{negative}};
      assign overflow = 1'b0;
    end else begin : node
      localparam LEFT = 1 << ($clog2(LENGTH) - 1);
      localparam RIGHT = LENGTH - LEFT;
      localparam PRODUCT = BX + (SIGNED ? 0 : 1);
      localparam LEFT_WIDTH = PRODUCT + $clog2(LEFT) < LIMIT ? PRODUCT + $clog2(LEFT) : LIMIT;
      localparam RIGHT_WIDTH = PRODUCT + $clog2(RIGHT) < LIMIT ? PRODUCT + $clog2(RIGHT) : LIMIT;
      wire [LEFT_WIDTH-1:0] a;
      wire [RIGHT_WIDTH-1:0] b;
      wire right_carry, left_overflow, right_overflow, unused;
      ternary_tree #(.LENGTH(LEFT), .BX(BX), .SIGNED(SIGNED), .LIMIT(LIMIT)) left (
          .x(x[LEFT*BX-1:0]), .nonzero(nonzero[LEFT-1:0]), .negative(negative[LEFT-1:0]),
          .sum(a), .carry(), .overflow(left_overflow)
      );
      ternary_tree #(.LENGTH(RIGHT), .BX(BX), .SIGNED(SIGNED), .LIMIT(LIMIT)) right (
          .x(x[LENGTH*BX-1:LEFT*BX]), .nonzero(nonzero[LENGTH-1:LEFT]), .negative(negative[LENGTH-1:LEFT]),
          .sum(b), .carry(right_carry), .overflow(right_overflow)
      );
      wire [WIDTH-1:0] wide_a = $signed(a);
      wire [WIDTH-1:0] wide_b = $signed(b);
      assign {sum, unused} = {wide_a, 1'b1} + {wide_b, right_carry};
      if (NATURAL > LIMIT) begin : check
        assign overflow = left_overflow | right_overflow | ((wide_a[WIDTH-1] == wide_b[WIDTH-1]) & (sum[WIDTH-1] != wide_a[WIDTH-1]));
      end else begin : exact
        assign overflow = 1'b0;
      end
    end
  endgenerate
endmodule

// product = (sum + carry) * scale, an array multiplier: a row of WIDTH adders for each bit of the scale; the first only adds the carry.
module scale_multiplier #(
    parameter WIDTH = 9,
    parameter BSCALE = 8
) (
    input [WIDTH-1:0] sum,  // signed
    input carry,
    input [BSCALE-1:0] scale,  // unsigned
    output [WIDTH+BSCALE-1:0] product  // signed
);
  wire [WIDTH:0] row[0:BSCALE-1];
  genvar k;
  generate
    for (k = 0; k < BSCALE; k = k + 1) begin : bits
      wire [WIDTH-1:0] selected = sum & {WIDTH{scale[k]}};
      wire unused;
      if (k == 0) begin : first
        assign {row[0], unused} = {{(WIDTH + 1) {1'b0}}, 1'b1} + {selected[WIDTH-1], selected, carry & scale[0]};
      end else begin : other
        assign {row[k], unused} = {row[k-1][WIDTH], row[k-1][WIDTH:1], 1'b1} + {selected[WIDTH-1], selected, carry & scale[k]};
      end
      if (k < BSCALE - 1) begin : low
        assign product[k] = row[k][0];
      end else begin : high
        assign product[WIDTH+BSCALE-1:k] = row[k];
      end
    end
  endgenerate
endmodule
