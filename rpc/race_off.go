//go:build !race

package rpc

func raceRead()  {}
func raceWrite() {}
