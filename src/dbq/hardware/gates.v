// Yosys technology mapping: what is left of the adders as two-input gates.
module FULL_ADDER (input A, input B, input CI, output S, output CO);
  wire half = A ^ B;
  assign S = half ^ CI;
  assign CO = (A & B) | (half & CI);
endmodule

