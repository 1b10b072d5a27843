// Package carriers offers the kinds of connection that one test suite runs
// over, each as a listener and a dial function: in memory, a Unix socket, the
// simulated VMM, and, in the lab, AF_VSOCK itself.
//
//	for _, carrier := range carriers.All(t) {
//		t.Run(carrier.Name, func(t *testing.T) {
//			l, dial := carrier.Listen(t)
//			...
//		})
//	}
package carriers
