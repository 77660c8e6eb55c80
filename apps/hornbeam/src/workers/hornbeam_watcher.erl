%% SPDX-License-Identifier: Apache-2.0

%% @private Development: replaces the workers when files of the application change (option `reload').
%%
%% The files are watched by a Python process of its own, in the workers' interpreter, where the library
%% watchfiles is if it is anywhere (see `python/hornbeam/_watcher.py' for what they say to each other).
%% It is started again when it dies, after a delay that doubles, with what its predecessor has seen, so
%% that no change is missed in between. It leaves with this process and with the node.
-module(hornbeam_watcher).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([child_specs/3]).
-export([start_link/3]).
-export([folders/1]).

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-record(state, {
    name :: atom(),
    config :: hornbeam_config:config(),
    python :: file:filename(),
    port :: port() | undefined,
    os_pid :: pos_integer() | undefined,
    %% When the process was started, and how many in a row have ended soon after.
    started_ms = 0 :: integer(),
    failures = 0 :: non_neg_integer(),
    %% A fingerprint of the files as they were when they were looked at last.
    seen :: binary() | undefined
}).

%% One that has run for so long has not failed at its start.
-define(STABLE_MS, 5000).
-define(MIN_DELAY_MS, 100).
-define(MAX_DELAY_MS, 30000).
-define(EXIT_TIMEOUT_MS, 2000).

%% @doc None where nothing is to be watched.
-spec child_specs(atom(), hornbeam_config:config(), file:filename()) -> [supervisor:child_spec()].
child_specs(_, #{reload := false}, _) ->
    [];
child_specs(Name, Config, Python) ->
    [#{id => ?MODULE, start => {?MODULE, start_link, [Name, Config, Python]}, shutdown => 5000}].

-spec start_link(atom(), hornbeam_config:config(), file:filename()) ->
    {ok, pid()} | {error, term()}.
start_link(Name, Config, Python) ->
    gen_server:start_link(?MODULE, {Name, Config, Python}, []).

%% @doc Where the files are that are watched: those of the option, or where modules are looked for.
-spec folders(hornbeam_config:config()) -> [binary()].
folders(#{reload := #{dirs := undefined}, chdir := undefined, pythonpath := Paths}) ->
    absolute(Paths, <<".">>);
folders(#{reload := #{dirs := undefined}, chdir := Folder, pythonpath := Paths}) ->
    absolute([<<".">> | Paths], Folder);
folders(#{reload := #{dirs := Dirs}, chdir := undefined}) ->
    absolute(Dirs, <<".">>);
folders(#{reload := #{dirs := Dirs}, chdir := Folder}) ->
    absolute(Dirs, Folder).

absolute(Paths, Folder) ->
    lists:usort([filename:absname(Path, filename:absname(Folder)) || Path <- Paths]).

%%% gen_server

-spec init({atom(), hornbeam_config:config(), file:filename()}) ->
    {ok, #state{}, {continue, start}}.
init({Name, Config, Python}) ->
    process_flag(trap_exit, true),
    logger:update_process_metadata(#{hornbeam_server => Name}),
    {ok, #state{name = Name, config = Config, python = Python}, {continue, start}}.

-spec handle_continue(start, #state{}) -> {noreply, #state{}}.
handle_continue(start, State) ->
    {noreply, start(State)}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, {error, bad_request}, #state{}}.
handle_call(_, _, State) ->
    {reply, {error, bad_request}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({Port, {data, Packet}}, State = #state{port = Port}) ->
    {noreply, told(decode(Packet), State)};
handle_info({Port, {exit_status, Status}}, State = #state{port = Port}) ->
    {noreply, start_later(Status, State#state{port = undefined, os_pid = undefined})};
handle_info({timeout, _, start}, State) ->
    {noreply, start(State)};
handle_info({'EXIT', Port, _}, State) when is_port(Port) ->
    %% Its exit status comes as well, or has come.
    {noreply, State};
handle_info({'EXIT', _Parent, Reason}, State) ->
    {stop, Reason, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{port = undefined}) ->
    ok;
terminate(_Reason, State) ->
    ok = kill(State).

%%% The process

start(State = #state{python = Python, config = Config}) ->
    try hornbeam_interpreter:open(Python, ["watch"], Config) of
        Port -> started(Port, State)
    catch
        %% The interpreter may be back soon: who develops makes virtual environments anew.
        error:Reason -> start_later(Reason, State#state{started_ms = now_ms()})
    end.

started(Port, State = #state{config = Config = #{reload := Reload}, seen = Seen}) ->
    OsPid = case erlang:port_info(Port, os_pid) of
        {os_pid, Pid} -> Pid;
        undefined -> undefined
    end,
    Settings = Reload#{dirs => folders(Config), seen => Seen},
    %% It may have ended already, which its exit status tells.
    _ = catch port_command(Port, term_to_binary({watch, Settings})),
    State#state{port = Port, os_pid = OsPid, started_ms = now_ms()}.

start_later(Status, State = #state{failures = Failures0}) ->
    Failures = case now_ms() - State#state.started_ms >= ?STABLE_MS of
        true -> 0;
        false -> Failures0 + 1
    end,
    DelayMs = min(?MAX_DELAY_MS, ?MIN_DELAY_MS bsl min(Failures, 20)),
    ?LOG_WARNING(#{what => watcher_down, status => Status, restart_in_ms => DelayMs}),
    _ = erlang:start_timer(DelayMs, self(), start),
    State#state{failures = Failures}.

kill(#state{os_pid = undefined}) ->
    ok;
kill(#state{port = Port, os_pid = OsPid}) ->
    hornbeam_worker:kill(OsPid),
    receive
        {Port, {exit_status, _}} -> ok
    after ?EXIT_TIMEOUT_MS ->
        ok
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).

%%% What it says

decode(Packet) ->
    try binary_to_term(Packet, [safe])
    catch error:badarg -> malformed
    end.

told({watching, #{by := By, why := Why, missing := Missing, seen := Seen}}, State)
        when By =:= watchfiles; By =:= polling ->
    Folders = folders(State#state.config),
    ?LOG_NOTICE(#{what => watching_files, by => By, why => Why, folders => Folders,
                  missing => Missing}),
    State#state{seen = Seen};
told({changed, #{files := Files, count := Count, seen := Seen}}, State = #state{name = Name}) ->
    ?LOG_NOTICE(#{what => files_changed, files => Files, count => Count}),
    case hornbeam_selection:pool_pid(Name) of
        undefined -> ok;
        Pool -> hornbeam_pool:reload_newest(Pool)
    end,
    State#state{seen = Seen};
told(Message, State) ->
    %% Nothing of the application's runs in there, so this is a fault of ours: begin again.
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    ok = kill(State),
    start_later(killed, State#state{port = undefined, os_pid = undefined}).
