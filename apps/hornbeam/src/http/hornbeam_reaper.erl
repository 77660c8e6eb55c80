%% SPDX-License-Identifier: Apache-2.0

%% @private Ends connections that are idle for too long, or take too long over a request head.
%%
%% Cowboy has one timer for both, `request_timeout', from the end of one response to the end of the
%% next request's head. Here they are told apart, once a second, by what the socket has received
%% since the last request ended: nothing means idle (`keepalive'), something is a head that drips
%% in (`header_timeout'), and a lot of something is a head that never ends. One process for all
%% connections instead of timers that would have to be started and stopped for each request.
%%
%% Connections register themselves and never unregister: the sweep drops those that are dead.
-module(hornbeam_reaper).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new_table/0]).
-export([start_link/2]).
-export([register/2]).
-export([connections/1]).
-export([finish_all/1]).
-export([decide/3]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([table/0, limits/0, observed/0]).

-type table() :: ets:tid().
%% Rows: {Pid, Socket, Transport, activity(), mark()}. Public: connections insert their own row;
%% only the reaper changes or deletes rows.

-type limits() :: #{keepalive := timeout(), header_timeout := timeout(), max_head := pos_integer()}.

-type mark() :: {Total :: non_neg_integer(), Received :: non_neg_integer(),
                 HeadSinceMs :: integer() | undefined}.
%% What the last sweep saw: how many streams there had been, bytes received when the connection
%% became idle, and when bytes of a new head were first seen.

-type observed() :: #{now_ms := integer(), total := non_neg_integer(),
                      idle_since_ms := integer(), received := non_neg_integer()}.

-record(state, {
    table :: table(),
    limits :: limits()
}).

-define(SWEEP_MS, 1000).

%%% API

%% @doc The table belongs to its maker, the listener: connections outlive a reaper.
-spec new_table() -> table().
new_table() ->
    ets:new(?MODULE, [public, {write_concurrency, true}]).

-spec start_link(hornbeam_config:config(), table()) -> {ok, pid()} | {error, term()}.
start_link(Config, Table) ->
    gen_server:start_link(?MODULE, {Config, Table}, []).

%% @doc Put the calling connection under watch.
-spec register(table(), hornbeam_connection:context()) -> ok.
register(Table, #{socket := Socket, transport := Transport, activity := Activity}) ->
    true = ets:insert(Table, {self(), Socket, Transport, Activity, {0, 0, undefined}}),
    ok.

%% @doc Number of connections that are open.
-spec connections(table()) -> non_neg_integer().
connections(Table) ->
    length(alive(Table)).

%% @doc Ask all connections to finish: each ends after the response that it is sending, at once if
%% there is none. The pids that were asked.
-spec finish_all(table()) -> [pid()].
finish_all(Table) ->
    Rows = alive(Table),
    _ = [hornbeam_connection:finish({Pid, Socket, Transport, Activity})
         || {Pid, Socket, Transport, Activity, _} <- Rows],
    [element(1, Row) || Row <- Rows].

%% @doc What to do with a connection that has no stream under way. Pure.
-spec decide(limits(), mark(), observed()) -> {keep, mark()} | finish.
decide(_Limits, {Total0, _, _}, #{total := Total, received := Received}) when Total =/= Total0 ->
    %% Idle anew since the last sweep.
    {keep, {Total, Received, undefined}};
decide(Limits, {Total, Received, undefined}, Observed = #{received := Received}) ->
    #{now_ms := NowMs, idle_since_ms := IdleSinceMs} = Observed,
    #{keepalive := KeepaliveMs, header_timeout := HeaderMs} = Limits,
    LimitMs = case Total of
        0 -> HeaderMs;
        _ -> KeepaliveMs
    end,
    %% `infinity' is above every number in Erlang's order of terms.
    case NowMs - IdleSinceMs >= LimitMs of
        true -> finish;
        false -> {keep, {Total, Received, undefined}}
    end;
decide(Limits, {Total, Received0, HeadSinceMs0}, Observed = #{received := Received}) ->
    #{now_ms := NowMs} = Observed,
    #{header_timeout := HeaderMs, max_head := MaxHead} = Limits,
    HeadSinceMs = case HeadSinceMs0 of
        undefined -> NowMs;
        _ -> HeadSinceMs0
    end,
    case NowMs - HeadSinceMs >= HeaderMs orelse Received - Received0 > MaxHead of
        true -> finish;
        false -> {keep, {Total, Received0, HeadSinceMs}}
    end.

%%% gen_server

-spec init({hornbeam_config:config(), table()}) -> {ok, #state{}}.
init({Config, Table}) ->
    #{max_request_line_size := LineSize, max_header_size := HeaderSize} = Config,
    Limits = (maps:with([keepalive, header_timeout], Config))#{
        %% A pipelined request that follows a head in the same read counts as well: a margin.
        max_head => 2 * (LineSize + HeaderSize) + 65536
    },
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {ok, #state{table = Table, limits = Limits}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> no_return().
handle_call(Request, _From, _State) ->
    error({unexpected_call, Request}).

-spec handle_cast(term(), #state{}) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({timeout, _, sweep}, State = #state{table = Table, limits = Limits}) ->
    NowMs = erlang:monotonic_time(millisecond),
    _ = [sweep(Row, NowMs, Table, Limits) || Row <- ets:tab2list(Table)],
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {noreply, State};
%% A connection is collected, or has gone.
handle_info({garbage_collect, _, _}, State) ->
    {noreply, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

sweep(Row = {Pid, Socket, Transport, Activity, Mark0}, NowMs, Table, Limits) ->
    case is_process_alive(Pid) of
        false ->
            ets:delete(Table, Pid);
        true ->
            case hornbeam_connection:activity(Activity) of
                {0, Total, IdleSinceMs} ->
                    Received = received(hornbeam_connection:protocol(Activity), Transport, Socket),
                    Observed = #{now_ms => NowMs, total => Total, idle_since_ms => IdleSinceMs,
                                 received => Received},
                    act(decide(Limits, Mark0, Observed), Row, Observed, Table);
                _ ->
                    true
            end
    end.

act({keep, Mark}, {Pid, _, _, _, _}, Observed, Table) ->
    _ = has_calmed_down(Observed) andalso
        erlang:garbage_collect(Pid, [{async, Pid}, {type, major}]),
    ets:update_element(Table, Pid, {5, Mark});
act(finish, {Pid, Socket, Transport, Activity, _}, _Observed, Table) ->
    ok = hornbeam_connection:finish({Pid, Socket, Transport, Activity}),
    ets:delete(Table, Pid).

%% In one sweep of those that see it idle: what its requests have left is freed once, and not for
%% each of them where they come in quick succession.
has_calmed_down(#{now_ms := NowMs, idle_since_ms := IdleSinceMs}) ->
    NowMs - IdleSinceMs >= ?SWEEP_MS andalso NowMs - IdleSinceMs < 2 * ?SWEEP_MS.

%% What comes on an HTTP/2 connection that has no streams is pings and the like, not the head of the
%% next request: it is idle.
received(http2, _, _) ->
    0;
received(http1, Transport, Socket) ->
    case Transport:getstat(Socket, [recv_oct]) of
        {ok, [{recv_oct, Bytes}]} -> Bytes;
        {error, _} -> 0
    end.

alive(Table) ->
    [Row || Row <- ets:tab2list(Table), is_process_alive(element(1, Row))].
