package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"logbroker/internal/cli"
)

// profiles is the file $XDG_CONFIG_HOME/logbroker/profiles.yaml.
type profiles struct {
	Current  string             `yaml:"current,omitempty"`
	Profiles map[string]profile `yaml:"profiles"`
}

// profile is a named way to reach a cluster.
type profile struct {
	Servers []string `yaml:"servers"`
	TLS     tlsFiles `yaml:"tls,omitempty"`
}

// profileView is a profile as it is shown.
type profileView struct {
	Name    string   `json:"name"`
	Current bool     `json:"current"`
	Servers []string `json:"servers"`
	TLS     tlsFiles `json:"tls"`
}

func (a *app) profilesFile() (string, error) {
	dir, err := a.configDir()
	if err != nil {
		return "", fmt.Errorf("finding the configuration directory: %w; set XDG_CONFIG_HOME", err)
	}
	return filepath.Join(dir, "logbroker", "profiles.yaml"), nil
}

func (a *app) loadProfiles() (profiles, error) {
	var p profiles
	file, err := a.profilesFile()
	if err != nil {
		return p, err
	}
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("reading the profiles: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("%s: %w; mend or remove the file", file, err)
	}
	if p.Profiles == nil {
		p.Profiles = map[string]profile{}
	}
	return p, nil
}

// saveProfiles replaces the file in one step, readable by its owner only.
func (a *app) saveProfiles(p profiles) error {
	file, err := a.profilesFile()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := encodeYAML(&b, p); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("saving the profiles: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".profiles-*")
	if err != nil {
		return fmt.Errorf("saving the profiles: %w", err)
	}
	_, err = tmp.Write(b.Bytes())
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("saving the profiles: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func (p profiles) get(name string) (profile, error) {
	if got, ok := p.Profiles[name]; ok {
		return got, nil
	}
	return profile{}, notFound("no such profile %q; see: logbroker profile list", name)
}

func (p profiles) view(name string) profileView {
	return profileView{Name: name, Current: name == p.Current, Servers: p.Profiles[name].Servers, TLS: p.Profiles[name].TLS}
}

// profileToUse returns the named profile, or the one in use where name is
// empty; found is false where there is neither.
func (a *app) profileToUse(name string) (p profile, found bool, err error) {
	all, err := a.loadProfiles()
	if err != nil {
		return profile{}, false, err
	}
	if name == "" {
		if name = all.Current; name == "" {
			return profile{}, false, nil
		}
	}
	p, err = all.get(name)
	return p, err == nil, err
}

func newProfile(a *app) *cobra.Command {
	return cli.Group("profile", "Names for clusters, so that --server need not be typed",
		newProfileCreate(a), newProfileList(a), newProfileUse(a), newProfileShow(a), newProfileDelete(a))
}

func newProfileCreate(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Store --server and the TLS files under a name; the first profile is used at once",
		Example: "  logbroker profile create staging --server nats://10.0.0.1:4222,nats://10.0.0.2:4222",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if strings.TrimSpace(name) == "" {
				return cli.Usage("a profile needs a name")
			}
			all, err := a.loadProfiles()
			if err != nil {
				return err
			}
			if _, exists := all.Profiles[name]; exists {
				return fmt.Errorf("profile %q exists; see: logbroker profile show %s, or delete it first", name, name)
			}
			files, err := absolute(tlsFiles{a.globals.ca, a.globals.cert, a.globals.keyF})
			if err != nil {
				return err
			}
			servers := a.globals.servers
			if len(servers) == 0 {
				servers = []string{defaultServer}
			}
			all.Profiles[name] = profile{Servers: servers, TLS: files}
			if all.Current == "" {
				all.Current = name
			}
			if err := a.saveProfiles(all); err != nil {
				return err
			}
			return a.showProfile(all, name)
		},
	}
}

// absolute makes the file names independent of the working directory.
func absolute(f tlsFiles) (tlsFiles, error) {
	if (f.Cert == "") != (f.Key == "") {
		return f, cli.Usage("a client certificate needs both --tls-cert and --tls-key")
	}
	for _, name := range []*string{&f.CA, &f.Cert, &f.Key} {
		if *name == "" {
			continue
		}
		full, err := filepath.Abs(*name)
		if err != nil {
			return f, err
		}
		*name = full
	}
	return f, nil
}

func newProfileList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the profiles", Args: cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			all, err := a.loadProfiles()
			if err != nil {
				return err
			}
			views := []profileView{}
			for _, name := range slices.Sorted(maps.Keys(all.Profiles)) {
				views = append(views, all.view(name))
			}
			return a.emit(&views, func(t *table) {
				t.row("NAME", "CURRENT", "SERVERS")
				for _, v := range views {
					t.row(v.Name, mark(v.Current), strings.Join(v.Servers, ","))
				}
			})
		},
	}
}

func mark(yes bool) string {
	if yes {
		return "*"
	}
	return ""
}

func newProfileUse(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Use a profile from now on", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.loadProfiles()
			if err != nil {
				return err
			}
			if _, err := all.get(args[0]); err != nil {
				return err
			}
			all.Current = args[0]
			if err := a.saveProfiles(all); err != nil {
				return err
			}
			return a.showProfile(all, args[0])
		},
	}
}

func newProfileShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a profile, by default the one in use", Args: cli.Args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.loadProfiles()
			if err != nil {
				return err
			}
			name := all.Current
			if len(args) == 1 {
				name = args[0]
			}
			if name == "" {
				return notFound("no profile is in use; see: logbroker profile list")
			}
			if _, err := all.get(name); err != nil {
				return err
			}
			return a.showProfile(all, name)
		},
	}
}

func (a *app) showProfile(all profiles, name string) error {
	v := all.view(name)
	return a.emit(&v, func(t *table) {
		t.row("NAME", v.Name)
		t.row("CURRENT", v.Current)
		t.row("SERVERS", strings.Join(v.Servers, ","))
		t.row("TLS CA", v.TLS.CA)
		t.row("TLS CERT", v.TLS.Cert)
		t.row("TLS KEY", v.TLS.Key)
	})
}

func newProfileDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a profile (the cluster stays as it is)", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.loadProfiles()
			if err != nil {
				return err
			}
			if _, err := all.get(args[0]); err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("Delete profile %q?", args[0])); err != nil {
				return err
			}
			delete(all.Profiles, args[0])
			if all.Current == args[0] {
				all.Current = ""
			}
			if err := a.saveProfiles(all); err != nil {
				return err
			}
			a.note("deleted profile %q", args[0])
			return nil
		},
	}
}

// note tells the user something that is not data.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }
