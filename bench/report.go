package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"logbroker/bench/report"
	"logbroker/internal/cli"
)

func newReport() *cobra.Command {
	var output, markdown string
	cmd := &cobra.Command{
		Use: "report FILE…", Short: "Make a page with charts, or a document's tables, out of result files",
		Long: "Read files that other commands wrote with --json and write one HTML page with tables and charts, which needs no other file.\n" +
			"With --markdown, write the tables of a document instead: between two marks, so that what stands outside them stays.",
		Example: "  bench report produce.json compare.json --output report.html\n  bench report --markdown docs/PERFORMANCE.md compare.json",
		Args:    cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			files := make([]report.File, len(names))
			for i, name := range names {
				var err error
				if files[i], err = report.Read(name); err != nil {
					return err
				}
			}
			if markdown != "" {
				if err := report.UpdateMarkdown(markdown, files); err != nil {
					return err
				}
			}
			if markdown != "" && !cmd.Flags().Changed("output") {
				return nil
			}
			return writePage(cmd, output, files)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "bench-report.html", "the page (-: stdout)")
	cmd.Flags().StringVar(&markdown, "markdown", "", "write the tables into this document, and no page unless --output is given")
	return cmd
}

func writePage(cmd *cobra.Command, name string, files []report.File) error {
	if name == "-" {
		return report.WriteHTML(cmd.OutOrStdout(), files)
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("cannot write the page: %w", err)
	}
	if err := errors.Join(report.WriteHTML(io.Writer(f), files), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s is written\n", name)
	return nil
}
