%% SPDX-License-Identifier: Apache-2.0

%% @private Who answers for a path, on all connected nodes.
%%
%% A path is a group of the {@link pg} scope `hornbeam_hooks'. Its members are the processes of the
%% workers that have registered it, and of each node with an Erlang handler this process. Whoever
%% is a member takes {@link hornbeam_hook_call} messages.
%%
%% The table has `{{handler, Path}, Handler}' for each Erlang handler of this node and
%% `{{load, Worker}, Count}' for each worker of this node that has ever registered a path: how many
%% invocations it has. It is public, as callers count up by themselves before they send, so that
%% many who choose at once do not all choose the same worker; the worker counts down.
-module(hornbeam_hook_registry).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([child_specs/0]).
-export([scopes/0]).
-export([create_table/0]).
-export([start_link/0]).
-export([register_handler/2]).
-export([unregister_handler/1]).
-export([join/1]).
-export([leave/1]).
-export([leave_all/0]).
-export([pick/2]).
-export([count_up/1]).
-export([count_down/1]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([path/0, not_found/0]).

-type path() :: binary().

-type not_found() :: {service_not_found, #{path := path(), near := [path()]}}.

-define(SCOPE, hornbeam_hooks).
-define(TABLE, ?MODULE).

%% The workers that are watched, so that their rows go with them.
-type state() :: #{Monitor :: reference() => Worker :: pid()}.

%%% API

-spec child_specs() -> [supervisor:child_spec()].
child_specs() ->
    [#{id => ?MODULE, start => {?MODULE, start_link, []}}].

-spec scopes() -> [hornbeam_groups:scope()].
scopes() ->
    [?SCOPE].

%% @doc The caller owns the table.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, {write_concurrency, true},
                         {read_concurrency, true}]),
    ok.

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec register_handler(path(), hornbeam_hooks:handler()) -> ok.
register_handler(Path, Handler) ->
    gen_server:call(?MODULE, {register, Path, Handler}).

-spec unregister_handler(path()) -> boolean().
unregister_handler(Path) ->
    gen_server:call(?MODULE, {unregister, Path}).

%% @doc The calling worker answers for the path; once, however often it says so.
-spec join(path()) -> ok.
join(Path) ->
    case is_member(Path, self()) of
        true ->
            ok;
        false ->
            _ = ets:insert_new(?TABLE, {{load, self()}, 0}) andalso
                gen_server:cast(?MODULE, {watch, self()}),
            hornbeam_groups:join(?SCOPE, Path, self())
    end.

%% @doc The calling worker no longer does; whether it did.
-spec leave(path()) -> boolean().
leave(Path) ->
    hornbeam_groups:leave(?SCOPE, Path, self()) =:= ok.

%% @doc The calling worker is about to end.
-spec leave_all() -> ok.
leave_all() ->
    case ets:member(?TABLE, {load, self()}) of
        true -> lists:foreach(fun leave/1, hornbeam_groups:groups_of(?SCOPE, self()));
        false -> ok
    end.

%% @doc Who is to answer, other than those that have turned out to be dead: of this node the one
%% with the fewest invocations, else any of another node. An Erlang handler of this node, which
%% runs as many as there are side by side, counts as idle.
-spec pick(path(), Dead :: [pid()]) -> {ok, pid()} | {error, not_found()}.
pick(Path, Dead) ->
    case pg:get_local_members(?SCOPE, Path) -- Dead of
        [] ->
            case pg:get_members(?SCOPE, Path) -- Dead of
                [] -> not_found(Path);
                Remote -> {ok, lists:nth(rand:uniform(length(Remote)), Remote)}
            end;
        Local ->
            %% Random among equals.
            Loads = [{load(Pid), rand:uniform(), Pid} || Pid <- Local],
            {_, _, Pid} = lists:min(Loads),
            {ok, Pid}
    end.

%% @doc One more invocation for a worker of this node.
-spec count_up(pid()) -> ok.
count_up(Worker) ->
    count(Worker, 1).

-spec count_down(pid()) -> ok.
count_down(Worker) ->
    count(Worker, -1).

%%% gen_server

-spec init([]) -> {ok, state()}.
init([]) ->
    %% After a crash handlers and workers are still in the table, and the scope has forgotten this
    %% process.
    Paths = [Path || [Path] <- ets:match(?TABLE, {{handler, '$1'}, '_'})],
    lists:foreach(fun(Path) -> ok = hornbeam_groups:join(?SCOPE, Path, self()) end, Paths),
    Workers = [Pid || [Pid] <- ets:match(?TABLE, {{load, '$1'}, '_'})],
    {ok, lists:foldl(fun watch/2, #{}, Workers)}.

-spec handle_call(term(), gen_server:from(), state()) -> {reply, term(), state()}.
handle_call({register, Path, Handler}, _From, State) ->
    true = ets:insert(?TABLE, {{handler, Path}, Handler}),
    _ = is_member(Path, self()) orelse hornbeam_groups:join(?SCOPE, Path, self()),
    {reply, ok, State};
handle_call({unregister, Path}, _From, State) ->
    _ = hornbeam_groups:leave(?SCOPE, Path, self()),
    {reply, ets:take(?TABLE, {handler, Path}) =/= [], State}.

-spec handle_cast({watch, pid()}, state()) -> {noreply, state()}.
handle_cast({watch, Worker}, State) ->
    {noreply, watch(Worker, State)}.

-spec handle_info(term(), state()) -> {noreply, state()}.
handle_info({hornbeam_invoke, Caller, Ref, Invocation}, State) ->
    Path = element(1, Invocation),
    case ets:lookup(?TABLE, {handler, Path}) of
        [{_, Handler}] ->
            hornbeam_hook_runner:start(Handler, Caller, Ref, Invocation);
        [] ->
            %% Unregistered since the caller looked.
            {error, Error} = not_found(Path),
            hornbeam_hook_call:tell_error(Caller, Ref, Error)
    end,
    {noreply, State};
handle_info({'DOWN', Monitor, process, Worker, _}, State) when is_map_key(Monitor, State) ->
    true = ets:delete(?TABLE, {load, Worker}),
    {noreply, maps:remove(Monitor, State)};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

watch(Worker, State) ->
    State#{monitor(process, Worker) => Worker}.

is_member(Path, Pid) ->
    hornbeam_groups:is_member(?SCOPE, Path, Pid).

not_found(Path) ->
    Near = hornbeam_near:names(Path, hornbeam_groups:which_groups(?SCOPE)),
    {error, {service_not_found, #{path => Path, near => Near}}}.

load(Pid) ->
    case ets:lookup(?TABLE, {load, Pid}) of
        [{_, Count}] -> Count;
        [] -> 0
    end.

%% Without a row it is no worker, or it has ended.
count(Worker, Step) ->
    try ets:update_counter(?TABLE, {load, Worker}, Step) of
        _ -> ok
    catch
        error:badarg -> ok
    end.
