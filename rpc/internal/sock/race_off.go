//go:build !race

package sock

func raceRead()  {}
func raceWrite() {}
