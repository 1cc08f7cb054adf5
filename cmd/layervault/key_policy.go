package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"layervault/keys/tpm"
)

// signFlags say what sign-policy signs.
type signFlags struct {
	key    string   // PEM file, private
	pcrs   string   // selection and bank
	values []string // N=HEX
	file   string   // with values
	out    string
}

func newKeySignPolicyCommand(a *app) *cobra.Command {
	var s signFlags
	cmd := &cobra.Command{
		Use:   "sign-policy",
		Short: "Approve the PCR values of another boot, offline",
		Long: `Sign PCR values, so that tpm slots enrolled with --signed-by open at them: before an
update, with the values of the next image, so that the machine comes back without
anybody. No TPM and no vault is needed; keep the private key away from the machines.

The values come from --pcr, or from a file with a line for each ("7=HEX"; what
tpm2_pcrread prints is fine). --pcrs says which of them to sign, and their bank.
Leave out a PCR that you cannot foresee: the policy then says nothing of it.

The result goes to standard output or --out. On the machine: layervault key load-policy.
What systemd-measure signs is of the same format.`,
		Args: cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error { return a.signPolicy(s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.key, "key", "", "private key in a PEM file: ECDSA P-256 or RSA")
	f.StringVar(&s.pcrs, "pcrs", "", "sign these PCRs of the given values: 0-4,7 or sha384:7 (default: all given, of sha256)")
	f.StringArrayVar(&s.values, "pcr", nil, "a value, as 7=HEX; give it once for each PCR")
	f.StringVar(&s.file, "values", "", "file with the values, - for standard input")
	f.StringVar(&s.out, "out", "", "write to this new file")
	return cmd
}

func (a *app) signPolicy(s signFlags) error {
	if s.key == "" {
		return usagef("--key is missing: the private key that signs")
	}
	given, err := a.givenPCRs(s)
	if err != nil {
		return err
	}
	sel, err := selectGiven(s.pcrs, given)
	if err != nil {
		return err
	}
	values := make([][]byte, len(sel.PCRs))
	for i, n := range sel.PCRs {
		values[i] = given[n]
	}
	text, err := readPrivatePEM(s.key)
	if err != nil {
		return err
	}
	defer clear(text)
	private, err := tpm.ParsePrivateKey(text)
	if err != nil {
		return fmt.Errorf("%s: %w", s.key, err)
	}
	file, err := tpm.SignPolicy(private, sel, values)
	if err != nil {
		return err
	}
	data, err := file.Encode()
	if err != nil {
		return err
	}
	if s.out == "" {
		_, err := a.out.Write(data)
		return err
	}
	if err := writeNew(s.out, data); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"policy": s.out, "pcrs": sel.String()})
	}
	return a.printf("signed PCRs %s in %s\n", sel, s.out)
}

// pcrLine is "7=HEX", or a line of tpm2_pcrread: "  7 : 0xHEX".
var pcrLine = regexp.MustCompile(`^\s*([0-9]+)\s*[=:]\s*(?:0x)?([0-9A-Fa-f]+)\s*$`)

// givenPCRs collects the values of --pcr and --values.
func (a *app) givenPCRs(s signFlags) (map[int][]byte, error) {
	given := map[int][]byte{}
	add := func(from, line string) error {
		m := pcrLine.FindStringSubmatch(line)
		if m == nil {
			return usagef("%s: %q is no PCR and value; write 7=HEX", from, line)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return usagef("%s: %q: %v", from, line, err)
		}
		value, err := hex.DecodeString(m[2])
		if err != nil {
			return usagef("%s: PCR %d: %v", from, n, err)
		}
		if _, twice := given[n]; twice {
			return usagef("%s: PCR %d is given twice (a file holds one bank)", from, n)
		}
		given[n] = value
		return nil
	}
	for _, v := range s.values {
		if err := add("--pcr", v); err != nil {
			return nil, err
		}
	}
	if s.file == "" {
		return given, nil
	}
	data, err := a.readWhole(s.file)
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		// tpm2_pcrread puts the bank's name above its values.
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "sha") && strings.HasSuffix(line, ":") {
			continue
		}
		if err := add(s.file, line); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// selectGiven reads --pcrs, which may only name PCRs whose values are given.
func selectGiven(pcrs string, given map[int][]byte) (tpm.Selection, error) {
	if len(given) == 0 {
		return tpm.Selection{}, usagef("no PCR values: give them with --pcr 7=HEX or --values FILE")
	}
	if pcrs == "" {
		var all []string
		for _, n := range slices.Sorted(maps.Keys(given)) {
			all = append(all, strconv.Itoa(n))
		}
		pcrs = strings.Join(all, ",")
	}
	sel, err := tpm.ParsePCRs(pcrs)
	if err != nil {
		return tpm.Selection{}, &usageError{err}
	}
	for _, n := range sel.PCRs {
		if given[n] == nil {
			return tpm.Selection{}, usagef("--pcrs names PCR %d, and no value of it is given", n)
		}
	}
	return sel, nil
}

// loadedView is key load-policy --json.
type loadedView struct {
	File  string   `json:"file"`
	Added int      `json:"added"`
	Total int      `json:"total"`
	Slots []string `json:"slots"` // whose signer signed what the file holds
}

func newKeyLoadPolicyCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "load-policy FILE",
		Short: "Give the tpm slots a signed policy to open by",
		Long: `Add the policies in FILE (- for standard input; see key sign-policy) to the tier's file
of signed policies, beside the key ring, where unlocking finds them. The vault need not
open. A policy that no slot's signer signed is refused.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.loadPolicy(cmd.Context(), k, args[0])
		},
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}

func (a *app) loadPolicy(ctx context.Context, k keyFlags, name string) error {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	offered, err := a.readPolicies(name)
	if err != nil {
		return err
	}
	view := loadedView{File: tpm.PoliciesPath(cfg.Tier), Slots: []string{}}
	fit := tpm.PolicyFile{}
	for _, slot := range ring.Slots() {
		if slot.Provider != tpm.Name {
			continue
		}
		sealing, err := tpm.SealingOf(slot.Blob)
		if err != nil || sealing.SignedBy == nil {
			continue
		}
		mine, err := offered.SignedBy(sealing.SignedBy)
		if err != nil {
			return err
		}
		if len(mine) > 0 {
			fit.Add(mine)
			view.Slots = append(view.Slots, slot.ID)
		}
	}
	if len(fit) == 0 {
		return fmt.Errorf("%w: no slot of %s has the key that signed %s, or its signature is false", tpm.ErrBadPolicy, ring.Path(), name)
	}
	have, err := tpm.ReadPolicies(view.File)
	if errors.Is(err, tpm.ErrBadPolicy) {
		have = tpm.PolicyFile{} // a broken file opens nothing; this one does
	} else if err != nil {
		return err
	}
	view.Added = have.Add(fit)
	for _, approvals := range have {
		view.Total += len(approvals)
	}
	data, err := have.Encode()
	if err != nil {
		return err
	}
	if err := replaceFile(view.File, data); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(view)
	}
	return a.printf("added %d signed policies for slot %s; %d in %s\n", view.Added, strings.Join(view.Slots, ", "), view.Total, view.File)
}

func (a *app) readPolicies(name string) (tpm.PolicyFile, error) {
	if name != "-" {
		if _, err := os.Stat(name); err != nil {
			return nil, err
		}
		return tpm.ReadPolicies(name)
	}
	return tpm.DecodePolicies(a.in, "standard input")
}
