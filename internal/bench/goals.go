package main

import "math"

// A goal is one figure of the table of goals: a metric of one of our peers,
// divided by a base peer's in the same round where there is one.
type goal struct {
	work     string // the row it belongs to; empty for the row before
	scenario string
	peer     string
	base     string // empty: an absolute figure
	metric   metric
	atMost   bool    // the figure should be small
	must     float64 // NaN: none
	goal     float64 // NaN: none
}

var none = math.NaN()

// goals are the rows in their order. The tolerance in "one write per call" is
// for the commands that the measured processes answer.
var goals = []goal{
	{"unary 64 B, 1 caller, same CPU", oneSame, ours, limitOne, rate, false, 0.80, 0.90},
	{"", oneSame, ours, nameGRPC, rate, false, 1.8, 2.0},
	{"", oneSame, ours, nameTTRPC, rate, false, 1.15, 1.3},

	{"adaptive spin, two CPUs", oneSplit, ours, limitOne, rate, false, none, 4},
	{"", oneSplit, ours, limitOne, cpuCall, true, none, 1},
	{"adaptive spin: no loss on the same CPU", oneSame, ours, oursNoSpin, rate, false, 0.95, 1},
	{"adaptive spin: no loss, 16 callers", many16, ours, oursNoSpin, rate, false, 0.95, 1},
	{"adaptive spin: no loss, 128 callers", many128, ours, oursNoSpin, rate, false, 0.95, 1},

	{"unary 64 B, 16 callers", many16, ours, limitMany, rate, false, 0.65, 0.95},
	{"", many16, ours, nameGRPC, rate, false, 3.3, 5},
	{"", many16, ours, nameTTRPC, rate, false, 1.7, 2.5},

	{"unary 64 B, 128 callers", many128, ours, limitMany, rate, false, 0.42, 0.65},
	{"", many128, ours, nameGRPC, rate, false, 5, 8},
	{"", many128, ours, nameTTRPC, rate, false, 3, 4.5},

	{"unary 64 KiB, 1 caller, same CPU", largeSame, ours, limitOne, rate, false, 0.45, 0.52},
	{"", largeSame, oursPooled, limitOne, rate, false, 0.65, 0.80},
	{"", largeSame, ours, nameGRPC, rate, false, 2.2, 2.6},
	{"", largeSame, oursPooled, nameGRPC, rate, false, 2.2, 4},

	{"stream 64 KiB, down", down64K, ours, limitStream, throughput, false, 0.23, 0.27},
	{"", down64K, oursPooled, limitStream, throughput, false, 0.55, 0.75},
	{"", down64K, oursPooled, nameGRPC, throughput, false, none, 3.5},
	{"", down64K, oursPooled, nameTTRPC, throughput, false, none, 5},
	{"stream 64 KiB, up", up64K, ours, limitStream, throughput, false, 0.23, 0.27},
	{"", up64K, oursPooled, limitStream, throughput, false, 0.55, 0.75},
	{"", up64K, oursPooled, nameGRPC, throughput, false, none, 3.5},
	{"", up64K, oursPooled, nameTTRPC, throughput, false, none, 5},
	{"stream 4 KiB, down", down4K, ours, limitStream, throughput, false, 0.22, 0.26},
	{"", down4K, oursPooled, limitStream, throughput, false, 0.55, 0.75},
	{"", down4K, oursPooled, nameTTRPC, throughput, false, none, 10},
	{"stream 4 KiB, up", up4K, ours, limitStream, throughput, false, 0.22, 0.26},
	{"", up4K, oursPooled, limitStream, throughput, false, 0.55, 0.75},
	{"", up4K, oursPooled, nameTTRPC, throughput, false, none, 10},

	{"64 B calls beside 1 MiB calls", besideLarge, ours, nameGRPC, p99, true, 1, 0.5},
	{"", besideLarge, ours, nameGRPC, throughput, false, 1.3, 3},
	{"", besideLarge, oursPooled, nameGRPC, p99, true, 1, 0.5},
	{"", besideLarge, oursPooled, nameGRPC, throughput, false, 1.3, 3},

	{"dial to first answer", dialFirst, ours, limitOne, p50, true, 1.3, 1.05},

	{"allocations per 64 B call", oneSame, ours, "", allocsC, true, 6, 4},
	{"", oneSame, ours, "", allocsS, true, 6, 4},

	{"write calls per call, 1 caller", oneSame, ours, "", writesC, true, 1.05, 1.01},
	{"", oneSame, ours, "", writesS, true, 1.05, 1.01},
	{"write calls per call, 16 callers", many16, ours, "", writesC, true, 0.25, 0.10},
	{"", many16, ours, "", writesS, true, 0.25, 0.10},
	{"write calls per call, 128 callers", many128, ours, "", writesC, true, 0.12, 0.08},
	{"", many128, ours, "", writesS, true, 0.12, 0.08},

	{"idle connection", idleConns, ours, "", memoryS, true, 12, 6},
	{"", idleConns, ours, "", memoryC, true, 12, 6},
	{"", idleConns, ours, "", routineS, true, 2, 1},
	{"", idleConns, ours, "", routineC, true, 2, 1},
}

// meets says whether value reaches the bound, which is not NaN.
func (g goal) meets(value, bound float64) bool {
	// What the report prints decides, so that 1.003 reaches "at most 1".
	value = rounded(value)
	if g.atMost {
		return value <= bound
	}
	return value >= bound
}
