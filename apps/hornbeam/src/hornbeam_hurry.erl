%% SPDX-License-Identifier: Apache-2.0

%% @private A second SIGTERM ends at once what the first one lets finish.
%%
%% OTP's own handler of that signal stops the node at the first one, and there is nothing more to stop
%% at the second. This one, beside it, then has connections cut and workers get a short time for the end
%% of their tasks and lifespans: whoever drains looks whether that is so, and workers that are ending are
%% told. It does nothing where SIGTERM does not stop the node, because somebody has replaced OTP's handler.
-module(hornbeam_hurry).

-behaviour(gen_event).

%% API
-export([install/0]).
-export([remove/0]).
-export([is_asked/0]).
-export([ask/0]).
-export([bound_ms/1]).

%% gen_event
-export([init/1]).
-export([handle_event/2]).
-export([handle_call/2]).

-include_lib("kernel/include/logger.hrl").

-define(MANAGER, erl_signal_server).
%% What a worker has for the end of its tasks and its lifespan from then on.
-define(GRACE_MS, 2000).

-spec install() -> ok.
install() ->
    _ = persistent_term:erase(?MODULE),
    case lists:member(?MODULE, gen_event:which_handlers(?MANAGER)) of
        true -> ok;
        false -> gen_event:add_handler(?MANAGER, ?MODULE, [])
    end.

-spec remove() -> ok.
remove() ->
    _ = gen_event:delete_handler(?MANAGER, ?MODULE, removed),
    ok.

-spec is_asked() -> boolean().
is_asked() ->
    persistent_term:get(?MODULE, false).

%% @doc From now on nothing is waited for.
-spec ask() -> ok.
ask() ->
    ok = persistent_term:put(?MODULE, true),
    lists:foreach(fun tell_workers/1, hornbeam_selection:all_workers_sups()).

%% @doc The time for something that a worker does at its end.
-spec bound_ms(timeout()) -> timeout().
bound_ms(TimeoutMs) ->
    case is_asked() of
        true -> min(?GRACE_MS, TimeoutMs);
        false -> TimeoutMs
    end.

%%% gen_event

%% The state is whether the signal has come before.
-spec init([]) -> {ok, boolean()}.
init([]) ->
    {ok, false}.

-spec handle_event(term(), boolean()) -> {ok, boolean()}.
handle_event(sigterm, false) ->
    {ok, true};
handle_event(sigterm, true) ->
    %% In a process of its own: it asks others.
    _ = spawn(fun() -> ask_if_stopping(init:get_status()) end),
    {ok, true};
handle_event(_, HasCome) ->
    {ok, HasCome}.

-spec handle_call(term(), boolean()) -> {ok, {error, bad_request}, boolean()}.
handle_call(_, HasCome) ->
    {ok, {error, bad_request}, HasCome}.

%%% Internal

ask_if_stopping({stopping, _}) ->
    _ = is_asked() orelse ?LOG_NOTICE(#{what => shutdown_hurried}),
    ask();
ask_if_stopping(_) ->
    ok.

%% One that is at its own end has no time for questions, so each is asked apart.
tell_workers(Sup) ->
    _ = spawn(fun() ->
        [hornbeam_worker:hurry(Pid)
         || {_, Pid, _, _} <- supervisor:which_children(Sup), is_pid(Pid)]
    end),
    ok.
