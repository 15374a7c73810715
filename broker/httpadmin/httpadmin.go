// Package httpadmin is the HTTP port of a node: probes, metrics, version and a
// JSON API that answers what the command line answers. It decides nothing: the
// API calls the same control verbs as every other client.
//
// Start at Start; routes lists every path.
package httpadmin

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"logbroker/internal/buildinfo"
)

// Time-outs of the port. Reads are small; a metrics page or a CPU profile may
// take a while to write.
const (
	readTimeout    = 10 * time.Second
	writeTimeout   = 2 * time.Minute
	idleTimeout    = 2 * time.Minute
	requestTimeout = 10 * time.Second
	headerBytesMax = 64 << 10
)

// Options configures a Server. Listen, Ready and Control have no default.
type Options struct {
	// Listen is host:port; port 0 takes a free one.
	Listen string
	// TLS nil means plain HTTP.
	TLS *tls.Config
	// Pprof serves /debug/pprof.
	Pprof bool
	// TokenFile holds a bearer token that everything but the probes and
	// /version then demands. Empty: none.
	TokenFile string
	// Ready returns why the node is not ready; empty means it is.
	Ready func() []string
	// Control answers an admin verb with an encoded envelope.
	Control func(ctx context.Context, verb string, body []byte) []byte
	// Metrics and Detailed are the pages /metrics and /metrics/detailed.
	Metrics, Detailed prometheus.Gatherer
	Logger            *slog.Logger
}

// Server is the running HTTP port.
type Server struct {
	options  Options
	token    string
	listener net.Listener
	server   *http.Server
	done     chan struct{} // closed when the serving goroutine has ended
}

// Start opens the port and serves it.
func Start(o Options) (*Server, error) {
	s := &Server{options: o, done: make(chan struct{})}
	if o.TokenFile != "" {
		raw, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("http.token_file: %w", err)
		}
		if s.token = strings.TrimSpace(string(raw)); s.token == "" {
			return nil, fmt.Errorf("http.token_file %s is empty", o.TokenFile)
		}
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on http.listen %s: %w", o.Listen, err)
	}
	s.listener = listener
	if o.TLS != nil {
		listener = tls.NewListener(listener, o.TLS)
	}
	s.server = &http.Server{
		Handler: s.routes(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	go func() { // ends with Close
		defer close(s.done)
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.Logger.Error("the HTTP port stopped", "err", err)
		}
	}()
	return s, nil
}

// Addr returns the real host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends running requests within ctx and closes the port.
func (s *Server) Close(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.server.Close())
	}
	<-s.done
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, status{Status: "ok"}) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /healthz", s.readyz)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, buildinfo.Read()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, index()) })

	metrics := promhttp.HandlerFor(s.options.Metrics, promhttp.HandlerOpts{})
	detailed := promhttp.HandlerFor(s.options.Detailed, promhttp.HandlerOpts{})
	mux.Handle("GET /metrics", s.guard(metrics))
	mux.Handle("GET /metrics/detailed", s.guard(detailed))
	s.apiRoutes(mux)
	if s.options.Pprof {
		mux.Handle("/debug/pprof/", s.guard(http.HandlerFunc(pprof.Index)))
		mux.Handle("/debug/pprof/profile", s.guard(http.HandlerFunc(pprof.Profile)))
		mux.Handle("/debug/pprof/trace", s.guard(http.HandlerFunc(pprof.Trace)))
		mux.Handle("/debug/pprof/symbol", s.guard(http.HandlerFunc(pprof.Symbol)))
		mux.Handle("/debug/pprof/cmdline", s.guard(http.HandlerFunc(pprof.Cmdline)))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem{Status: http.StatusNotFound, Title: "Not found", Detail: "there is no " + r.Method + " " + r.URL.Path + "; see /"})
	})
	return mux
}

// guard demands the bearer token, if one is configured.
func (s *Server) guard(next http.Handler) http.Handler {
	if s.token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !isBearer || subtle.ConstantTimeCompare([]byte(got), []byte(s.token)) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, problem{Status: http.StatusUnauthorized, Title: "Unauthorized", Detail: "send the token of http.token_file as Authorization: Bearer"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

type status struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons,omitempty"`
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if reasons := s.options.Ready(); len(reasons) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, status{Status: "unavailable", Reasons: reasons})
		return
	}
	writeJSON(w, http.StatusOK, status{Status: "ok"})
}

func index() map[string][]string {
	return map[string][]string{"paths": {
		"/livez", "/readyz", "/healthz", "/version", "/metrics", "/metrics/detailed",
		"/api/v1/cluster", "/api/v1/cluster/health", "/api/v1/nodes", "/api/v1/topics", "/api/v1/topics/{topic}",
		"/api/v1/topics/{topic}/partitions/{partition}", "/api/v1/raft?topic={topic}&partition={partition}",
		"/api/v1/groups", "/api/v1/groups/{group}",
	}}
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone; nobody else to tell
}
