// Yosys technology mapping: what is left of the adders as two-input gates.
module FULL_ADDER (input A, input B, input CI, output S, output CO);
  wire half = A ^ B;
  assign S = half ^ CI;
  assign CO = (A & B) | (half & CI);
endmodule

module HALF_ADDER #(parameter ONE = 0) (input A, input B, output S, output CO);
  assign S = A ^ B ^ (ONE ? 1'b1 : 1'b0);
  assign CO = ONE ? A | B : A & B;
endmodule
