package main

import (
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/relay/addrmap"
)

// referenceConfig is the configuration with every key, its default and its unit.
//
//go:embed testdata/cfrd.yaml
var referenceConfig []byte

// newConfigCommand returns `cfrd config`, which groups the commands for the configuration file.
func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write a commented configuration, or check yours",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newConfigInitCommand(), newConfigCheckCommand())
	return cmd
}

// newConfigInitCommand returns `cfrd config init`, which writes the reference configuration.
func newConfigInitCommand() *cobra.Command {
	var output string
	var force, withKey bool
	var ca privateCAOptions
	cmd := &cobra.Command{
		Use:   "init [--dev-ca [DIR]]",
		Short: "Write a configuration in which every key is explained",
		Long: "init writes the reference configuration, to be edited, to standard output or to a file. With --with-key it\n" +
			"also makes seal.key beside it, the key of relay.sealed, which every resolver and relay of one prefix share.\n" +
			"With --dev-ca it makes a private certificate authority and a certificate for --name and --address, for\n" +
			"laboratories and for private addresses, in DIR or beside the configuration, and says how to trust them.",
		Args: ca.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ca.write(filepath.Dir(output), args, cmd.ErrOrStderr()); err != nil {
				return err
			}
			if withKey {
				if err := writeKey(filepath.Join(filepath.Dir(output), "seal.key")); err != nil {
					return err
				}
			}
			if output == "" {
				_, err := cmd.OutOrStdout().Write(referenceConfig)
				return err
			}
			return writeNew(output, referenceConfig, 0o644, force)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write to instead of standard output")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the output file")
	cmd.Flags().BoolVar(&withKey, "with-key", false, "also make a new seal.key beside it")
	ca.addFlags(cmd)
	return cmd
}

// writeKey makes a seal key. It never overwrites one: every relay address in use is sealed with it.
func writeKey(path string) error {
	key := hex.EncodeToString(addrmap.NewKey()) + "\n"
	return writeNew(path, []byte(key), 0o600, false)
}

// writeNew writes a file that must not exist yet, unless it may be overwritten.
func writeNew(path string, data []byte, perm fs.FileMode, overwrite bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if overwrite {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, perm)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is left as it is", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// newConfigCheckCommand returns `cfrd config check`, which reports everything that is wrong with a configuration.
func newConfigCheckCommand() *cobra.Command {
	var m config.Mode
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report everything that is wrong with a configuration",
		Long: "check reads a configuration and every file that it names, as serve would, and prints OK or one line for\n" +
			"each thing that is wrong. Variables of the environment that begin with CFRD_ count too. Exit code 1 means\n" +
			"that serve would refuse it. Warnings begin with \"warning:\" and do not change the exit code.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			warnings, err := checkConfig(args[0], m)
			for _, w := range warnings {
				fmt.Fprintln(cmd.OutOrStdout(), "warning:", w)
			}
			if err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), err)
				return errReported
			}
			fmt.Fprintln(cmd.OutOrStdout(), "OK")
			return nil
		},
	}
	cmd.Flags().Var(&m, "mode", "the mode in which serve will run: all, resolver, relay")
	return cmd
}

// checkConfig does what serve does before it binds anything.
func checkConfig(path string, m config.Mode) (warnings []string, err error) {
	cfg, err := config.Read(path, m)
	if err != nil {
		return nil, err
	}
	v, err := loadValues(cfg, m, time.Now())
	if err != nil || v.certificate == nil {
		return cfg.Warnings, err
	}
	discovery, err := ddr.New(v.discovery(v.listen(), certs.NewHolder(v.certificate), v.Relays()))
	if err != nil {
		return cfg.Warnings, err
	}
	return append(cfg.Warnings, v.undiscovered(discovery, v.certificate.Leaf)...), nil
}
