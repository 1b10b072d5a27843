package main

import "slices"

// A placement says which CPUs the two processes of a pair may use.
type placement string

const (
	same  placement = "same CPU" // both on one CPU: pure cost, reproducible
	split placement = "two CPUs" // one CPU each, as host and guest: wake-ups count
	free  placement = "free"     // as the kernel likes
)

// placements in the order in which they are measured.
var placements = []placement{same, split, free}

// A scenario is one load in one placement, for some of the peers.
type scenario struct {
	name  string
	place placement
	load  load
	limit string   // the raw peer that is the limit
	peers []string // the others
	most  int      // rounds that suffice, 0 for all
	times int      // how often in each round, 0 for once: more where figures vary most
}

// The peers' names, as goals and scenarios use them.
const (
	limitOne    = "raw-pp"
	limitMany   = "raw-mux"
	limitStream = "raw-batch"
	nameGRPC    = "grpc"
	nameTTRPC   = "ttrpc"
	ours        = "vsockrpc"
	oursPooled  = "vsockrpc-pooled"
	oursNoSpin  = "vsockrpc-nospin"
)

func stacks(variants ...string) []string {
	return append([]string{nameGRPC, nameTTRPC, "drpc", "connect", ours}, variants...)
}

// The scenarios' names, as goals use them.
const (
	oneSame     = "unary-64B-c1-same"
	oneSplit    = "unary-64B-c1-split"
	many16      = "unary-64B-c16"
	many128     = "unary-64B-c128"
	largeSame   = "unary-64KiB-c1-same"
	down64K     = "down-64KiB"
	up64K       = "up-64KiB"
	down4K      = "down-4KiB"
	up4K        = "up-4KiB"
	besideLarge = "mixed"
	dialFirst   = "dial"
	idleConns   = "idle"
)

// vsockrpc-nospin does all that vsockrpc does: a process that has had large messages is
// some percent slower with small calls ever after, and they are compared with each other.
var scenarios = []scenario{
	{oneSame, same, load{unary, 1, 64}, limitOne, stacks(oursNoSpin), 0, 3},
	{largeSame, same, load{unary, 1, 64 << 10}, limitOne, stacks(oursPooled, oursNoSpin), 0, 3},
	{oneSplit, split, load{unary, 1, 64}, limitOne, stacks(oursNoSpin), 0, 0},
	{many16, free, load{unary, 16, 64}, limitMany, stacks(oursNoSpin), 0, 3},
	{many128, free, load{unary, 128, 64}, limitMany, stacks(oursNoSpin), 0, 3},
	{down64K, free, load{Kind: down, Size: 64 << 10}, limitStream, stacks(oursPooled, oursNoSpin), 0, 0},
	{up64K, free, load{Kind: up, Size: 64 << 10}, limitStream, stacks(oursPooled, oursNoSpin), 0, 0},
	{down4K, free, load{Kind: down, Size: 4 << 10}, limitStream, stacks(oursPooled, oursNoSpin), 0, 3},
	{up4K, free, load{Kind: up, Size: 4 << 10}, limitStream, stacks(oursPooled, oursNoSpin), 0, 3},
	{besideLarge, free, load{Kind: mixed, Size: 64}, limitMany, stacks(oursPooled, oursNoSpin), 0, 0},
	{dialFirst, free, load{Kind: dial, Size: 64}, limitOne, stacks(oursNoSpin), 0, 3},
	{idleConns, free, load{Kind: idle, Size: 64}, limitOne, stacks(), 2, 0},
}

// idleConnections is how many idle connections are held at once.
const idleConnections = 100

// allPeers are the names of the scenario's peers, the limit first.
func (s scenario) allPeers() []string {
	return append([]string{s.limit}, s.peers...)
}

func scenarioByName(name string) scenario {
	return scenarios[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })]
}

// A metric is one number of a result.
type metric struct {
	name string
	unit string // empty if the name says it
	of   func(load, result) float64
}

// title is the name and the unit.
func (m metric) title() string {
	if m.unit == "" {
		return m.name
	}
	return m.name + ", " + m.unit
}

func perCall(r result, total float64) float64 { return total / float64(r.Calls+r.BigCalls) }

var (
	rate = metric{"calls/s", "", func(_ load, r result) float64 {
		return float64(r.Calls) / r.Elapsed.Seconds()
	}}
	throughput = metric{"MiB/s", "", func(l load, r result) float64 {
		if l.Kind == mixed {
			return float64(r.BigCalls) * mixedSize / (1 << 20) / r.Elapsed.Seconds()
		}
		return float64(r.Calls) * float64(l.Size) / (1 << 20) / r.Elapsed.Seconds()
	}}
	p50     = metric{"p50", "µs", func(_ load, r result) float64 { return float64(r.P50.Nanoseconds()) / 1e3 }}
	p99     = metric{"p99", "µs", func(_ load, r result) float64 { return float64(r.P99.Nanoseconds()) / 1e3 }}
	cpuCall = metric{"CPU per call", "µs", func(_ load, r result) float64 {
		return perCall(r, float64((r.Client.CPU+r.Server.CPU).Nanoseconds())/1e3)
	}}
	allocsC  = metric{"allocations, client", "", func(_ load, r result) float64 { return perCall(r, float64(r.Client.Allocs)) }}
	allocsS  = metric{"allocations, server", "", func(_ load, r result) float64 { return perCall(r, float64(r.Server.Allocs)) }}
	writesC  = metric{"writes, client", "", func(_ load, r result) float64 { return perCall(r, float64(r.Client.Writes)) }}
	writesS  = metric{"writes, server", "", func(_ load, r result) float64 { return perCall(r, float64(r.Server.Writes)) }}
	memoryC  = metric{"heap+stack, client", "KiB", func(_ load, r result) float64 { return perCall(r, float64(r.Client.Memory)/1024) }}
	memoryS  = metric{"heap+stack, server", "KiB", func(_ load, r result) float64 { return perCall(r, float64(r.Server.Memory)/1024) }}
	routineC = metric{"goroutines, client", "", func(_ load, r result) float64 { return perCall(r, float64(r.Client.Routine)) }}
	routineS = metric{"goroutines, server", "", func(_ load, r result) float64 { return perCall(r, float64(r.Server.Routine)) }}
)

// main is the metric by which a load is compared.
func (k kind) main() metric {
	switch k {
	case down, up, mixed:
		return throughput
	case dial:
		return p50
	case idle:
		return memoryS
	}
	return rate
}
