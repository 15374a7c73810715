package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"logbroker/config"
	"logbroker/internal/cli"
)

// configFlags are -c and one flag per configuration key, named like the key.
type configFlags struct {
	file   string
	values map[string]*string
}

// register adds the flags. The per-key flags are hidden from the help, which
// would otherwise be sixty lines of them; the help says that they exist.
func (c *configFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&c.file, "config", "c", "", "configuration file (default "+config.SearchDir+"/"+config.FileName+" if it exists)")
	c.values = map[string]*string{}
	for _, key := range config.Keys() {
		c.values[key] = flags.String(key, "", "")
		_ = flags.MarkHidden(key) // fails only for a flag that does not exist
	}
}

// load loads the configuration and prints its warnings.
func (c *configFlags) load(cmd *cobra.Command) (config.Config, error) {
	set := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if value, isKey := c.values[f.Name]; isKey {
			set[f.Name] = *value
		}
	})
	loaded, err := config.Load(config.LoadOptions{File: c.file, Flags: set})
	if errors.Is(err, config.ErrNotBuilt) {
		return config.Config{}, cli.Usage("%w", err)
	}
	if err != nil {
		return config.Config{}, err
	}
	for _, warning := range loaded.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", warning)
	}
	return loaded.Config, nil
}

const keyFlagsHelp = "Every configuration key is a flag too, e.g. --storage.data_dir=/data; see logbrokerd config print --defaults."

func newConfig() *cobra.Command {
	return cli.Group("config", "Check and print the configuration", newConfigCheck(), newConfigPrint())
}

func newConfigCheck() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use: "check", Short: "Say whether the configuration is valid, and every fault if not", Long: keyFlagsHelp,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := flags.load(cmd); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "configuration is valid")
			return err
		},
	}
	flags.register(cmd.Flags())
	return cmd
}

func newConfigPrint() *cobra.Command {
	var flags configFlags
	var defaults bool
	cmd := &cobra.Command{
		Use: "print", Short: "Print the effective configuration, commented", Long: keyFlagsHelp,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := config.Default()
			if !defaults {
				var err error
				if c, err = flags.load(cmd); err != nil {
					return err
				}
			}
			return config.Print(cmd.OutOrStdout(), c)
		},
	}
	flags.register(cmd.Flags())
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print the defaults instead")
	return cmd
}
