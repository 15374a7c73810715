package httpadmin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// problem is an error as RFC 9457 ("Problem Details for HTTP APIs") has it,
// with our code and its name beside.
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Code   errcode.Code `json:"code,omitempty"`
}

func writeProblem(w http.ResponseWriter, p problem) {
	p.Type = "about:blank"
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone; nobody else to tell
}

func (s *Server) apiRoutes(mux *http.ServeMux) {
	api := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, s.guard(h)) }
	api("GET /api/v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		answer[protocol.ClusterInfo](s, w, r, protocol.VerbClusterInfo, protocol.Empty{})
	})
	api("GET /api/v1/cluster/health", func(w http.ResponseWriter, r *http.Request) {
		answer[protocol.ClusterHealth](s, w, r, protocol.VerbClusterHealth, protocol.Empty{})
	})
	api("GET /api/v1/nodes", s.nodes)
	api("GET /api/v1/topics", s.topics)
	api("GET /api/v1/topics/{topic}", func(w http.ResponseWriter, r *http.Request) {
		answer[protocol.TopicDescription](s, w, r, protocol.VerbTopicDescribe, topicRequest(r))
	})
	api("GET /api/v1/topics/{topic}/partitions/{partition}", s.partition)
	api("GET /api/v1/raft", s.raft)
	api("GET /api/v1/groups", s.groups)
	api("GET /api/v1/groups/{group}", func(w http.ResponseWriter, r *http.Request) {
		answer[protocol.GroupDescription](s, w, r, protocol.VerbGroupDescribed, protocol.GroupRequest{Version: protocol.ControlVersion, Group: r.PathValue("group")})
	})
	api("GET /api/v1/events", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem{Status: http.StatusNotImplemented, Title: "Not implemented", Detail: r.URL.Path + " is not built yet", Code: errcode.NotImplemented})
	})
}

// groups lists the consumer groups. While the groups of some coordinator cannot
// be told, there is no list: half of one would look like a whole one.
func (s *Server) groups(w http.ResponseWriter, r *http.Request) {
	list, ok := ask[protocol.GroupListReply](s, w, r, protocol.VerbGroupList, protocol.Empty{})
	switch {
	case !ok:
	case len(list.Unreachable) > 0:
		writeProblem(w, problem{
			Status: http.StatusServiceUnavailable, Title: errcode.CoordinatorNotAvailable.String(), Code: errcode.CoordinatorNotAvailable,
			Detail: fmt.Sprintf("%d group coordinators do not answer; try again", len(list.Unreachable)),
		})
	default:
		writeJSON(w, http.StatusOK, list.Groups)
	}
}

func topicRequest(r *http.Request) protocol.TopicRequest {
	return protocol.TopicRequest{Version: protocol.ControlVersion, Name: r.PathValue("topic")}
}

// ask runs a control verb. It has written the problem when ok is false.
func ask[T any](s *Server, w http.ResponseWriter, r *http.Request, verb string, request any) (reply T, ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		writeProblem(w, problem{Status: http.StatusInternalServerError, Title: "Internal error", Detail: err.Error()})
		return reply, false
	}
	var envelope protocol.Envelope[T]
	if err := json.Unmarshal(s.options.Control(ctx, verb, body), &envelope); err != nil {
		writeProblem(w, problem{Status: http.StatusInternalServerError, Title: "Internal error", Detail: "control verb " + verb + ": " + err.Error()})
		return reply, false
	}
	if e := envelope.Error; e != nil {
		writeProblem(w, problem{Status: httpStatus(e.Code), Title: e.Name, Detail: e.Message, Code: e.Code})
		return reply, false
	}
	return envelope.Body, true
}

func answer[T any](s *Server, w http.ResponseWriter, r *http.Request, verb string, request any) {
	if reply, ok := ask[T](s, w, r, verb, request); ok {
		writeJSON(w, http.StatusOK, reply)
	}
}

func (s *Server) nodes(w http.ResponseWriter, r *http.Request) {
	if info, ok := ask[protocol.ClusterInfo](s, w, r, protocol.VerbClusterInfo, protocol.Empty{}); ok {
		writeJSON(w, http.StatusOK, info.Nodes)
	}
}

func (s *Server) topics(w http.ResponseWriter, r *http.Request) {
	if list, ok := ask[protocol.TopicListReply](s, w, r, protocol.VerbTopicList, protocol.Empty{}); ok {
		if list.Topics == nil {
			list.Topics = []protocol.TopicSummary{}
		}
		writeJSON(w, http.StatusOK, list.Topics)
	}
}

func (s *Server) partition(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("partition"), 10, 32)
	if err != nil || id < 0 {
		writeProblem(w, problem{Status: http.StatusBadRequest, Title: "Bad request", Detail: "the partition is not a number of 0 or more"})
		return
	}
	topic, ok := ask[protocol.TopicDescription](s, w, r, protocol.VerbTopicDescribe, topicRequest(r))
	if !ok {
		return
	}
	if int(id) >= len(topic.Partitions) {
		writeProblem(w, problem{
			Status: http.StatusNotFound, Title: "Not found", Code: errcode.UnknownTopicOrPartition,
			Detail: "topic " + topic.Name + " has " + strconv.Itoa(len(topic.Partitions)) + " partitions",
		})
		return
	}
	writeJSON(w, http.StatusOK, topic.Partitions[id])
}

// raft answers for what ?shard= names as raft show does (metadata, groups/N,
// TOPIC/PARTITION), for ?topic= and ?partition=, or else for the metadata shard.
func (s *Server) raft(w http.ResponseWriter, r *http.Request) {
	if name := r.URL.Query().Get("shard"); name != "" {
		request, ok := protocol.RaftShowOf(name)
		if !ok {
			writeProblem(w, problem{Status: http.StatusBadRequest, Title: "Bad request", Detail: "the shard is not metadata, groups/N or TOPIC/PARTITION"})
			return
		}
		answer[protocol.RaftShowReply](s, w, r, protocol.VerbRaftShow, request)
		return
	}
	request := protocol.RaftShowRequest{Version: protocol.ControlVersion, Topic: r.URL.Query().Get("topic")}
	if text := r.URL.Query().Get("partition"); text != "" {
		id, err := strconv.ParseInt(text, 10, 32)
		if err != nil || id < 0 {
			writeProblem(w, problem{Status: http.StatusBadRequest, Title: "Bad request", Detail: "the partition is not a number of 0 or more"})
			return
		}
		request.Partition = int32(id)
	}
	answer[protocol.RaftShowReply](s, w, r, protocol.VerbRaftShow, request)
}

// httpStatus is the HTTP status of an error code.
func httpStatus(c errcode.Code) int {
	switch c {
	case errcode.UnknownTopicOrPartition, errcode.UnknownTopicID, errcode.NodeNotFound, errcode.GroupIDNotFound:
		return http.StatusNotFound
	case errcode.InvalidTopic, errcode.InvalidRequest, errcode.InvalidConfig, errcode.InvalidPartitions, errcode.InvalidReplicationFactor, errcode.InvalidGroupID:
		return http.StatusBadRequest
	case errcode.NotImplemented:
		return http.StatusNotImplemented
	case errcode.Throttled:
		return http.StatusTooManyRequests
	}
	if c.Retriable() {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
