package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/keys/secretio"
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
		Short: "Sign the PCR values of a future boot, offline",
		Long: `Sign PCR values, so that tpm slots enrolled with --signed-by open with these values. Sign
the values of the next image before an update, and the machine unlocks by itself after the
update. No TPM and no vault is needed; do not keep the private key on the machines.

The values come from --pcr, or from a file with one line for each ("7=HEX"; the output of
tpm2_pcrread works too). --pcrs selects the PCRs to sign, and their bank. Omit a PCR whose
value you cannot predict: the policy then does not depend on it.

The result goes to standard output or --out. On the machine: layervault key load-policy.
systemd-measure sign writes the same format.`,
		Args: cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error { return a.signPolicy(s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.key, "key", "", "private key in a PEM file: ECDSA P-256 or RSA")
	f.StringVar(&s.pcrs, "pcrs", "", "sign these PCRs of the given values: 0-4,7 or sha384:7 (default: all given, of sha256)")
	f.StringArrayVar(&s.values, "pcr", nil, "PCR value, as 7=HEX (repeatable)")
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
	sel, values, err := given.Select(s.pcrs)
	if err != nil {
		return &advice.UsageError{Err: err}
	}
	text, err := secretio.ReadPrivatePEM(s.key)
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
	if err := secretio.WriteNew(s.out, data, 0o644); err != nil {
		return err
	}
	return a.result(map[string]string{"policy": s.out, "pcrs": sel.String()}, "signed PCRs %s in %s\n", sel, s.out)
}

// givenPCRs collects the values of --pcr and --values.
func (a *app) givenPCRs(s signFlags) (tpm.Values, error) {
	given := tpm.Values{}
	for _, v := range s.values {
		if err := given.Add(v); err != nil {
			return nil, fmt.Errorf("--pcr: %w", err)
		}
	}
	if s.file != "" {
		data, err := secretio.ReadFile(a.in, s.file, secretio.MaxPEM)
		if err != nil {
			return nil, err
		}
		if err := given.AddAll(bytes.NewReader(data)); err != nil {
			return nil, fmt.Errorf("%s: %w", s.file, err)
		}
	}
	if len(given) == 0 {
		return nil, usagef("no PCR values: give them with --pcr 7=HEX or --values FILE")
	}
	return given, nil
}

func newKeyLoadPolicyCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "load-policy FILE",
		Short: "Load signed PCR policies for tpm slots",
		Long: `Add the policies in FILE (- for standard input; see key sign-policy) to the file of signed
policies beside the tier's key ring, which unlocking reads. The vault need not open. A
policy that is not signed by the signer of a slot is refused.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.loadPolicy(cmd.Context(), k, args[0]) },
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}

func (a *app) loadPolicy(ctx context.Context, k keyFlags, name string) error {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	offered, err := tpm.OfferedPolicies(a.in, name)
	if err != nil {
		return err
	}
	view, err := tpm.LoadPolicies(ring, cfg.Tier, offered)
	if err != nil {
		return fmt.Errorf("load %s: %w", name, err)
	}
	return a.result(view, "added %d signed policies for slot %s; %d in %s\n", view.Added, strings.Join(view.Slots, ", "), view.Total, view.File)
}
