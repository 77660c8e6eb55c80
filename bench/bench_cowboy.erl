%% SPDX-License-Identifier: Apache-2.0

%% @doc Cowboy alone answers the hello application's response, from a stream handler: what
%% Hornbeam's part in Erlang costs beyond that is its own.
-module(bench_cowboy).

-behaviour(cowboy_stream).

-export([start/1]).

%% cowboy_stream
-export([init/3]).
-export([data/4]).
-export([info/3]).
-export([terminate/3]).
-export([early_error/5]).

-spec start(inet:port_number()) -> ok.
start(Port) ->
    {ok, _} = application:ensure_all_started(cowboy),
    Transport = #{socket_opts => [{ip, {127, 0, 0, 1}}, {port, Port}], max_connections => infinity},
    Protocol = #{
        env => #{},
        stream_handlers => [?MODULE],
        idle_timeout => infinity,
        request_timeout => infinity,
        max_keepalive => infinity
    },
    {ok, _} = cowboy:start_clear(?MODULE, Transport, Protocol),
    ok.

init(_StreamId, _Request, _Options) ->
    Headers = #{
        <<"content-type">> => <<"text/plain">>,
        <<"content-length">> => <<"13">>,
        <<"server">> => <<"cowboy">>,
        <<"date">> => cowboy_clock:rfc1123()
    },
    {[{response, 200, Headers, <<"Hello, world!">>}, stop], undefined}.

data(_StreamId, _IsFin, _Data, State) ->
    {[], State}.

info(_StreamId, _Message, State) ->
    {[], State}.

terminate(_StreamId, _Reason, _State) ->
    ok.

early_error(_StreamId, _Reason, _PartialRequest, Response, _Options) ->
    Response.
