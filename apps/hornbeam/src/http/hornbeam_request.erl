%% SPDX-License-Identifier: Apache-2.0

%% @private What is known of a request for as long as its stream lives, and does not change.
%%
%% The parts of a stream ({@link hornbeam_stream}) each own their state; this is what all of them
%% read. A message to the own stream comes back after Cowboy has carried out the commands that were
%% given to it before.
-module(hornbeam_request).

%% API
-export([new/4]).
-export([key/1]).
-export([tell/2]).
-export([tell_after/3]).

-export_type([server/0, request/0, incoming/0]).

-type server() :: #{
    name := atom(),
    connections := hornbeam_reaper:table(),
    %% Options that streams read, as hornbeam_config has checked them.
    timeout := timeout(),
    body_timeout := timeout(),
    send_timeout := timeout(),
    max_body := non_neg_integer() | infinity,
    max_request_line_size := pos_integer(),
    max_header_size := pos_integer(),
    max_headers := pos_integer(),
    send_timeout := timeout(),
    http_version := [atom()],
    window := pos_integer(),
    max_skipped := non_neg_integer(),
    websocket_timeout := timeout(),
    websocket_ping := timeout(),
    websocket_max_frame_size := pos_integer() | infinity,
    websocket_compress := boolean(),
    retry := boolean(),
    queue_timeout := timeout(),
    server_header := binary() | undefined,
    date_header := boolean(),
    %% What connections read.
    header_timeout := timeout(),
    proxy_headers := hornbeam_proxy:trust(),
    proxy_protocol := boolean()
}.
%% What is the same for all streams of a listener.

-type incoming() :: #{
    method := binary(),
    scheme := binary(),
    path := binary(),
    qs := binary(),
    version := cowboy:http_version(),
    headers := cowboy:http_headers(),
    has_body := boolean(),
    %% Unknown of a chunked body, and on HTTP/2.
    body_length := non_neg_integer() | undefined,
    _ => _
}.
%% What has come: a cowboy_req:req(), of which these are read, or as much of one.

-type request() :: #{
    stream_id := cowboy_stream:streamid(),
    method := binary(),
    %% Of the response: the only thing that may change, with `Upgrade: h2c'.
    version := cowboy:http_version(),
    server := server(),
    connection := hornbeam_connection:context()
}.

-spec new(cowboy_stream:streamid(), incoming(), server(), hornbeam_connection:context()) ->
    request().
new(StreamId, #{method := Method, version := Version}, Server, Connection) ->
    #{stream_id => StreamId, method => Method, version => Version, server => Server,
      connection => Connection}.

%% @doc What others send messages to the stream by: `{Key, Message}'.
-spec key(request()) -> hornbeam_routes:stream_key().
key(#{stream_id := StreamId}) ->
    {self(), StreamId}.

%% @doc Send a message to the own stream.
-spec tell(Message :: term(), request()) -> ok.
tell(Message, Request) ->
    self() ! {key(Request), Message},
    ok.

%% @doc The same when that time is up: the timer.
-spec tell_after(TimeoutMs :: non_neg_integer(), Message :: term(), request()) -> reference().
tell_after(TimeoutMs, Message, Request) ->
    erlang:send_after(TimeoutMs, self(), {key(Request), Message}).
