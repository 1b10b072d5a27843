// Package spelling compares names that people type with those that there are.
package spelling

// Distance is how many bytes must be inserted, deleted or replaced to make a b
// (Levenshtein). The time and memory that it takes grow with the product and with the
// length of b.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
