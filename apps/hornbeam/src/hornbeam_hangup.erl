%% SPDX-License-Identifier: Apache-2.0

%% @private SIGHUP to the node reloads all its servers. A handler of OTP's event manager for signals,
%% beside those that others have there.
-module(hornbeam_hangup).

-behaviour(gen_event).

%% API
-export([install/0]).
-export([remove/0]).

%% gen_event
-export([init/1]).
-export([handle_event/2]).
-export([handle_call/2]).

-define(MANAGER, erl_signal_server).

%% @doc From now on the signal does not end the node. Nothing happens the second time.
-spec install() -> ok.
install() ->
    case lists:member(?MODULE, gen_event:which_handlers(?MANAGER)) of
        true -> ok;
        false -> ok = gen_event:add_handler(?MANAGER, ?MODULE, [])
    end,
    os:set_signal(sighup, handle).

%% @doc The signal does what it did before.
-spec remove() -> ok.
remove() ->
    case gen_event:delete_handler(?MANAGER, ?MODULE, removed) of
        {error, module_not_found} -> ok;
        _ -> os:set_signal(sighup, default)
    end.

-spec init([]) -> {ok, []}.
init([]) ->
    {ok, []}.

%% In processes of their own: a reload takes time, and its outcome is logged by the server's pool.
-spec handle_event(term(), []) -> {ok, []}.
handle_event(sighup, []) ->
    _ = spawn(fun reload_all/0),
    {ok, []};
handle_event(_, []) ->
    {ok, []}.

-spec handle_call(term(), []) -> {ok, {error, bad_request}, []}.
handle_call(_, []) ->
    {ok, {error, bad_request}, []}.

reload_all() ->
    Names = hornbeam_servers_sup:names(),
    lists:foreach(fun(Name) -> spawn(fun() -> hornbeam:reload(Name) end) end, Names).
