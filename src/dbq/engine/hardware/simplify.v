// Yosys technology mapping: an adder with a constant input is no full adder. One constant leaves a half adder (or, for a constant 1, the
// cell of the same size that a half adder's complement is), two leave wires or an inverter.
(* techmap_celltype = "FULL_ADDER" *)
module simplify_full_adder (A, B, CI, S, CO);
  input A, B, CI;
  output S, CO;
  parameter _TECHMAP_CONSTMSK_A_ = 1'b0;
  parameter _TECHMAP_CONSTVAL_A_ = 1'b0;
  parameter _TECHMAP_CONSTMSK_B_ = 1'b0;
  parameter _TECHMAP_CONSTVAL_B_ = 1'b0;
  parameter _TECHMAP_CONSTMSK_CI_ = 1'b0;
  parameter _TECHMAP_CONSTVAL_CI_ = 1'b0;
  wire _TECHMAP_FAIL_ = !(_TECHMAP_CONSTMSK_A_ || _TECHMAP_CONSTMSK_B_ || _TECHMAP_CONSTMSK_CI_);
  generate
    if (_TECHMAP_CONSTMSK_A_) HALF_ADDER #(.ONE(_TECHMAP_CONSTVAL_A_)) half (.A(B), .B(CI), .S(S), .CO(CO));
    else if (_TECHMAP_CONSTMSK_B_) HALF_ADDER #(.ONE(_TECHMAP_CONSTVAL_B_)) half (.A(A), .B(CI), .S(S), .CO(CO));
    else HALF_ADDER #(.ONE(_TECHMAP_CONSTVAL_CI_)) half (.A(A), .B(B), .S(S), .CO(CO));
  endgenerate
endmodule

(* techmap_celltype = "HALF_ADDER" *)
module simplify_half_adder (A, B, S, CO);
  parameter ONE = 0;
  input A, B;
  output S, CO;
  parameter _TECHMAP_CONSTMSK_A_ = 1'b0;
  parameter _TECHMAP_CONSTVAL_A_ = 1'b0;
  parameter _TECHMAP_CONSTMSK_B_ = 1'b0;
  parameter _TECHMAP_CONSTVAL_B_ = 1'b0;
  wire _TECHMAP_FAIL_ = !(_TECHMAP_CONSTMSK_A_ || _TECHMAP_CONSTMSK_B_);
  wire live = _TECHMAP_CONSTMSK_A_ ? B : A;
  wire constant = _TECHMAP_CONSTMSK_A_ ? _TECHMAP_CONSTVAL_A_ : _TECHMAP_CONSTVAL_B_;
  assign S = live ^ constant ^ (ONE ? 1'b1 : 1'b0);
  assign CO = ONE ? live | constant : live & constant;
endmodule
