package tpm

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Values are PCR values of one bank, by PCR.
type Values map[int][]byte

// valueLine is "7=HEX", or a line of tpm2_pcrread: "  7 : 0xHEX".
var valueLine = regexp.MustCompile(`^\s*([0-9]+)\s*[=:]\s*(?:0x)?([0-9A-Fa-f]+)\s*$`)

// Add adds a value that is written as "7=HEX", or as tpm2_pcrread prints it. Error:
// ErrBadPolicy.
func (v Values) Add(line string) error {
	m := valueLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("%w: %q is no PCR and value; write 7=HEX", ErrBadPolicy, line)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return fmt.Errorf("%w: %q: %w", ErrBadPolicy, line, err)
	}
	value, err := hex.DecodeString(m[2])
	if err != nil {
		return fmt.Errorf("%w: PCR %d: %w", ErrBadPolicy, n, err)
	}
	if _, twice := v[n]; twice {
		return fmt.Errorf("%w: PCR %d is given twice (a file holds one bank)", ErrBadPolicy, n)
	}
	v[n] = value
	return nil
}

// AddAll adds a value for each line; empty lines, comments and the names of banks that
// tpm2_pcrread prints are passed over.
func (v Values) AddAll(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "sha") && strings.HasSuffix(line, ":") {
			continue
		}
		if err := v.Add(line); err != nil {
			return err
		}
	}
	return lines.Err()
}

// Select gives the selection that pcrs names (ParsePCRs), "" for every value of SHA-256, with
// its values. Error: ErrBadPolicy for a PCR without a value.
func (v Values) Select(pcrs string) (Selection, [][]byte, error) {
	if pcrs == "" {
		var all []string
		for _, n := range slices.Sorted(maps.Keys(v)) {
			all = append(all, strconv.Itoa(n))
		}
		pcrs = strings.Join(all, ",")
	}
	sel, err := ParsePCRs(pcrs)
	if err != nil {
		return sel, nil, err
	}
	values := make([][]byte, len(sel.PCRs))
	for i, n := range sel.PCRs {
		if values[i] = v[n]; values[i] == nil {
			return sel, nil, fmt.Errorf("%w: no value of PCR %d is given", ErrBadPolicy, n)
		}
	}
	return sel, values, nil
}
